-- The bursts database, owned by the bursts service. Runs once, in one transaction.

CREATE TABLE notices (
  id     TEXT NOT NULL,        -- the VOEvent's IVORN
  serial INTEGER NOT NULL,
  burst  TEXT NOT NULL,
  body   TEXT NOT NULL,        -- JSON
  told   INTEGER NOT NULL DEFAULT 0, -- 1 once what follows from it was published
  PRIMARY KEY (id, serial)
) STRICT, WITHOUT ROWID;

CREATE INDEX notices_by_burst ON notices (burst);

CREATE TABLE bursts (
  id       TEXT PRIMARY KEY,
  last     TEXT NOT NULL,      -- date of the newest notice, UTC, RFC 3339
  revision INTEGER NOT NULL,   -- how often it has changed
  summary  TEXT NOT NULL       -- JSON
) STRICT, WITHOUT ROWID;

CREATE INDEX bursts_by_last ON bursts (last);

-- The auth database, owned by the auth service. Runs once, in one transaction.
-- Times are Unix milliseconds.

CREATE TABLE users (
  name     TEXT PRIMARY KEY,   -- lower case
  email    TEXT NOT NULL,      -- '' for none
  role     TEXT NOT NULL CHECK (role IN ('viewer', 'analyst', 'admin')),
  password TEXT NOT NULL,      -- argon2id in PHC format
  created  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Failed logins by name, of names that do not exist too.
CREATE TABLE failures (
  name  TEXT PRIMARY KEY,
  count INTEGER NOT NULL,      -- in a row
  last  INTEGER NOT NULL,
  until INTEGER NOT NULL       -- locked until then, 0 for not
) STRICT, WITHOUT ROWID;

CREATE INDEX failures_by_last ON failures (last);

-- A family is what began with one login: its refresh tokens follow each other.
CREATE TABLE families (
  id      TEXT PRIMARY KEY,
  user    TEXT NOT NULL REFERENCES users (name),
  expires INTEGER NOT NULL,
  revoked TEXT NOT NULL        -- why: logout, reuse, role; '' for not
) STRICT, WITHOUT ROWID;

CREATE INDEX families_by_expires ON families (expires);

CREATE TABLE refresh_tokens (
  hash    BLOB PRIMARY KEY,    -- SHA-256 of the token, which is stored nowhere
  family  TEXT NOT NULL REFERENCES families (id) ON DELETE CASCADE,
  expires INTEGER NOT NULL,
  used    INTEGER NOT NULL     -- when it was given for the next one, 0 for not yet
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);

-- Keys that sign access tokens, all of them in the published set.
CREATE TABLE signing_keys (
  kid    TEXT PRIMARY KEY,
  seed   BLOB NOT NULL,        -- of the Ed25519 key
  active INTEGER NOT NULL      -- signs from then on, until the next one does
) STRICT, WITHOUT ROWID;

-- What turns a refresh token into the next one, see accounts.Refresh. One row.
CREATE TABLE chain (
  key BLOB NOT NULL
) STRICT;

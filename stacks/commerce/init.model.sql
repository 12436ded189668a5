-- The model database, owned by the model service. Runs once, in one transaction.

CREATE TABLE commodities (
  code   TEXT PRIMARY KEY,     -- TOTAL, or 2, 4 or 6 digits
  parent TEXT,                 -- NULL for TOTAL
  level  INTEGER NOT NULL,     -- 0, 2, 4 or 6
  leaf   INTEGER NOT NULL,     -- 1 where the classification goes no further
  text   TEXT NOT NULL,
  unit   TEXT NOT NULL         -- usual unit of the quantity, '' for none
) STRICT, WITHOUT ROWID;

CREATE INDEX commodities_by_parent ON commodities (parent);

CREATE TABLE countries (
  code INTEGER PRIMARY KEY,    -- the UN's, not ISO's: Switzerland is 757
  iso  TEXT NOT NULL,          -- letters as Comtrade uses them, '' for none
  kind TEXT NOT NULL,          -- country, area, group, world, former
  name TEXT NOT NULL
) STRICT;

CREATE INDEX countries_by_iso ON countries (iso);

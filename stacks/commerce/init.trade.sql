-- The trade database, owned by the tradeflow service. Runs once, in one transaction.
-- Amounts are whole thousandths; STRICT refuses a sum that left the integers.

CREATE TABLE flows (
  reporter INTEGER NOT NULL,   -- UN code of the area that reports
  period   INTEGER NOT NULL,   -- 2022, or 202203 for a month
  flow     TEXT    NOT NULL,   -- M, X, RM (part of M), RX (part of X)
  partner  INTEGER NOT NULL,   -- UN code, 0 is the world
  cmd      TEXT    NOT NULL,   -- TOTAL, or 2 to 10 digits
  class    TEXT    NOT NULL,   -- H0 to H9, or HS where the revision was not told
  partner2 INTEGER NOT NULL,   -- 0 is all
  customs  TEXT    NOT NULL,   -- C00 is all procedures
  mot      INTEGER NOT NULL,   -- 0 is all modes of transport
  value    INTEGER NOT NULL,   -- primary value, thousandths of a US dollar
  cif      INTEGER,
  fob      INTEGER,
  unit     INTEGER,            -- Comtrade's unit code of qty
  qty      INTEGER,            -- thousandths of the unit
  net      INTEGER,            -- grams
  gross    INTEGER,            -- grams
  PRIMARY KEY (reporter, period, flow, partner, cmd, class, partner2, customs, mot)
) STRICT, WITHOUT ROWID;

-- How many flows of which commodities a reporter has in a period and flow: the
-- short way to the flows, whatever is searched. It has a row where flows has a
-- hundred, so that it costs an import next to nothing, unlike an index.
CREATE TABLE codes (
  reporter INTEGER NOT NULL,
  period   INTEGER NOT NULL,
  flow     TEXT    NOT NULL,
  cmd      TEXT    NOT NULL,
  records  INTEGER NOT NULL,
  PRIMARY KEY (reporter, period, flow, cmd)
) STRICT, WITHOUT ROWID;

-- What the flows of one reporter, period, flow and partner add up to, per slice
-- (level, detail and classification in one number; the smallest is the most
-- aggregated) and chapter. Kept by adding differences in the transaction that
-- changes the flows.
CREATE TABLE slices (
  reporter INTEGER NOT NULL,
  period   INTEGER NOT NULL,
  flow     TEXT    NOT NULL,
  partner  INTEGER NOT NULL,
  slice    INTEGER NOT NULL,
  chapter  TEXT    NOT NULL,   -- two digits, empty for TOTAL
  value    INTEGER NOT NULL,
  records  INTEGER NOT NULL,
  PRIMARY KEY (reporter, period, flow, partner, slice, chapter)
) STRICT, WITHOUT ROWID;

-- What counts of each group: the sum of its smallest slice.
CREATE TABLE totals (
  reporter INTEGER NOT NULL,
  period   INTEGER NOT NULL,
  flow     TEXT    NOT NULL,
  partner  INTEGER NOT NULL,
  value    INTEGER NOT NULL,
  records  INTEGER NOT NULL,
  PRIMARY KEY (reporter, period, flow, partner)
) STRICT, WITHOUT ROWID;

-- What counts of each group where chapters are asked for: its smallest slice below
-- TOTAL.
CREATE TABLE chapters (
  reporter INTEGER NOT NULL,
  period   INTEGER NOT NULL,
  flow     TEXT    NOT NULL,
  partner  INTEGER NOT NULL,
  chapter  TEXT    NOT NULL,
  value    INTEGER NOT NULL,
  records  INTEGER NOT NULL,
  PRIMARY KEY (reporter, period, flow, partner, chapter)
) STRICT, WITHOUT ROWID;

-- One row: whether the flows are the invented samples of a fresh system.
-- The first import removes them.
CREATE TABLE origin (
  sample INTEGER NOT NULL
) STRICT;

// Package sqlite lets a service open SQLite databases: importing it registers the
// driver (modernc.org/sqlite, no C) and teaches service the scheme of
// sqlite:///absolute/path.db.
//
//	import _ "fairlead/service/sqlite"
//
// A database is opened with the settings of a server: write-ahead log, every commit
// synced, foreign keys enforced, writers waiting for each other up to 10 seconds.
// Transactions take the write lock when they begin, so that none fails half way;
// [database/sql.TxOptions] with ReadOnly takes none. The file must exist: fairlead
// makes it.
//
// A handler that returns an error of SQLite tells the client 503 if the database is
// locked for longer than that, read-only, full or cannot be reached; every other
// error of SQLite is the program's defect, hence 500.
//
// It does not limit the size of write transactions: keep them short, other
// instances wait for them.
package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"fairlead/service"
)

const (
	scheme        = "sqlite"
	maxConns      = 8 // readers beside the one writer
	maxIdleTime   = 5 * time.Minute
	busyTimeoutMS = "10000"
)

func init() {
	service.RegisterDatabase(scheme, open, judge)
}

// open opens sqlite:///absolute/path.db. It does not touch the file yet.
func open(address string) (*sql.DB, error) {
	path, err := filePath(address)
	if err != nil {
		return nil, err
	}
	// The path is a URI to SQLite: what is special in one is escaped.
	dsn := (&url.URL{Scheme: "file", Path: path}).String() + "?" + url.Values{
		"mode":    {"rw"}, // never create: an empty database hides a wrong path
		"_txlock": {"immediate"},
		"_pragma": {
			"busy_timeout(" + busyTimeoutMS + ")", // first, the others may have to wait
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"foreign_keys(ON)",
		},
	}.Encode()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(maxIdleTime)
	return db, nil
}

func filePath(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("read address: must be sqlite:///absolute/path.db")
	}
	if u.Scheme != scheme || u.Host != "" || u.RawQuery != "" || u.Opaque != "" || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("read address %q: must be sqlite:///absolute/path.db", u.Redacted())
	}
	return u.Path, nil
}

// primaryCode masks the part of SQLite's extended result codes that says what kind
// of error it is.
const primaryCode = 0xff

// judge tells conditions of the database, which pass or which an operator mends,
// from defects of the program.
func judge(err error) (status int, public string) {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return 0, ""
	}
	switch e.Code() & primaryCode {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return http.StatusServiceUnavailable, "the database is busy; try again"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL:
		return http.StatusServiceUnavailable, "the database cannot be written at present"
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return http.StatusServiceUnavailable, "the database cannot be used at present"
	}
	return 0, ""
}

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
// It does not limit the size of write transactions: keep them short, other
// instances wait for them.
package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver

	"fairlead/service"
)

const (
	scheme        = "sqlite"
	maxConns      = 8 // readers beside the one writer
	maxIdleTime   = 5 * time.Minute
	busyTimeoutMS = "10000"
)

func init() {
	service.RegisterDatabase(scheme, open)
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

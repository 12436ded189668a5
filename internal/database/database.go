// Package database makes a system's databases ready before any service starts:
// it creates those that are missing and runs their init script, once.
//
// It guarantees that an init script ran whole or not at all (a crash in the
// middle leaves nothing that the next call would take for a database). It does
// not migrate, back up or open databases for services: a service gets a URL.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"fairlead/internal/system"
)

// maxInit bounds an init script, in bytes.
const maxInit = 64 << 20

// Ensure creates the databases that do not exist below dir and returns the URL
// of each by its name (sqlite:///absolute/path.db), and the names of those that
// it created now. Concurrent calls for one dir are not allowed; the lock of the
// data folder sees to that.
func Ensure(ctx context.Context, dir string, dbs []system.Database) (urls map[string]string, created []string, err error) {
	urls = make(map[string]string, len(dbs))
	for _, db := range dbs {
		path := Path(dir, db.Name)
		isNew, err := ensureSQLite(ctx, path, db.Init)
		if err != nil {
			return nil, created, fmt.Errorf("create database %s: %w", db.Name, err)
		}
		if isNew {
			created = append(created, db.Name)
		}
		urls[db.Name] = (&url.URL{Scheme: "sqlite", Path: path}).String()
	}
	return urls, created, nil
}

// Path returns the file of the SQLite database name below dir. Each has a folder
// of its own, since SQLite puts its log and shared memory beside the file.
func Path(dir, name string) string { return filepath.Join(dir, name, name+".db") }

// ensureSQLite builds the database under another name and renames it when it is
// whole, so that the file's existence says that the script has run.
func ensureSQLite(ctx context.Context, path, initScript string) (created bool, err error) {
	if _, err := os.Stat(path); err == nil {
		return false, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	script, err := readScript(initScript)
	if err != nil {
		return false, err
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return false, err
	}
	building := path + ".new"
	for _, left := range []string{building, building + "-journal", building + "-wal", building + "-shm"} {
		if err := os.Remove(left); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	if err := runScript(ctx, building, string(script)); err != nil {
		if initScript != "" {
			return false, fmt.Errorf("run %s: %w", filepath.Base(initScript), err)
		}
		return false, err
	}
	if err := os.Rename(building, path); err != nil {
		return false, err
	}
	d, err := os.Open(folder)
	if err != nil {
		return false, err
	}
	return true, errors.Join(d.Sync(), d.Close())
}

func readScript(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxInit {
		return nil, fmt.Errorf("%s is larger than 64 MiB", path)
	}
	return os.ReadFile(path)
}

// runScript leaves a database in WAL mode: two instances that switched a new one
// to WAL at the same moment would find it locked, whatever their busy time-out.
// When its only connection is closed, the log is gone and the file alone is the
// database, which can be renamed.
func runScript(ctx context.Context, path, script string) (err error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+"?_pragma=synchronous(FULL)&_pragma=foreign_keys(1)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	// user_version makes SQLite write the header even when there is no script.
	if _, err := db.ExecContext(ctx, "PRAGMA user_version = 1"); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, script); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}

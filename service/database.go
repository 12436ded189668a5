package service

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"fairlead/internal/wire"
)

const databaseTimeout = 15 * time.Second // to open a database, above SQLite's busy time-out

var (
	driversMu sync.RWMutex // guards drivers
	drivers   = map[string]databaseDriver{}
)

// databaseDriver is what a package below service/ has registered.
type databaseDriver struct {
	open  func(url string) (*sql.DB, error)
	judge func(err error) (status int, public string)
}

// RegisterDatabase teaches [Service.Database] the scheme of a database's URL. The
// packages below service/ do it when they are imported. It panics if the scheme is
// known already.
//
// judge, which may be nil, is asked about every error that a handler returns and
// that is no [Error] of its own. If it knows the error as a condition of the
// database, and not a defect of the program, it returns the status and the text that
// the client is told; otherwise 0. It must be safe for concurrent use.
func RegisterDatabase(scheme string, open func(url string) (*sql.DB, error), judge func(err error) (status int, public string)) {
	driversMu.Lock()
	defer driversMu.Unlock()
	if _, ok := drivers[scheme]; ok {
		panic("service: database scheme " + scheme + " is registered twice")
	}
	drivers[scheme] = databaseDriver{open, judge}
}

// judgeDatabase asks the databases' packages about an error; 0 if none knows it.
func judgeDatabase(err error) (status int, public string) {
	driversMu.RLock()
	defer driversMu.RUnlock()
	for _, d := range drivers {
		if d.judge == nil {
			continue
		}
		if status, public := d.judge(err); status >= 400 && status <= 599 {
			return status, public
		}
	}
	return 0, ""
}

// Database opens the database of that name, which must be one of the service's in
// the file. Its URL comes from DATABASE_URL_<NAME>, in capitals with underscores for
// dashes, or from DATABASE_URL where that is the only one. The program imports the
// package that knows its engine: import _ "fairlead/service/sqlite".
//
// It is called during setup and closes the database at the end. If it cannot be
// opened, setup fails after it has returned, and until then the [*sql.DB] answers
// everything with the error: callers need not check.
func (s *Service) Database(name string) *sql.DB {
	db, err := s.openDatabase(name)
	if err != nil {
		err = fmt.Errorf("open database %q: %w", name, err)
		s.fault(err)
		db = sql.OpenDB(brokenDatabase{err})
	}
	s.atEnd(db.Close)
	return db
}

func (s *Service) openDatabase(name string) (*sql.DB, error) {
	variable := wire.EnvDatabaseURL + "_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	url, ok := s.lookup(variable)
	if !ok {
		if url, ok = s.lookup(wire.EnvDatabaseURL); !ok || s.manyDatabases() {
			return nil, fmt.Errorf("%s is not set: name the database in the service's databases", variable)
		}
	}
	scheme, _, ok := strings.Cut(url, ":")
	if !ok {
		return nil, fmt.Errorf("read %s: must be a URL", variable)
	}
	driversMu.RLock()
	d, ok := drivers[scheme]
	driversMu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("no driver for %s: import _ \"fairlead/service/%s\"", scheme, scheme)
	}
	db, err := d.open(url)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, databaseTimeout)
	defer cancel()
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// manyDatabases reports whether the environment names databases one by one.
func (s *Service) manyDatabases() bool {
	for _, v := range s.environ() {
		if strings.HasPrefix(v, wire.EnvDatabaseURL+"_") {
			return true
		}
	}
	return false
}

// brokenDatabase is a connector that never connects.
type brokenDatabase struct{ err error }

func (b brokenDatabase) Connect(context.Context) (driver.Conn, error) { return nil, b.err }
func (b brokenDatabase) Driver() driver.Driver                        { return b }
func (b brokenDatabase) Open(string) (driver.Conn, error)             { return nil, b.err }

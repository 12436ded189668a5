package flows

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Store keeps the flows. It is safe for concurrent use, also by several processes
// on one database.
type Store struct {
	db *sql.DB
	// writing admits one import batch at a time: the database takes one writer
	// anyway, and waiting here is fair and costs no retry.
	writing chan struct{}
	// batch is how many records a transaction takes.
	batch int
}

// NewStore returns a store on a database that init.trade.sql has prepared.
func NewStore(db *sql.DB) *Store {
	return &Store{db: db, writing: make(chan struct{}, 1), batch: batchSize}
}

// ErrBusy is a database that another process kept locked for too long.
var ErrBusy = errors.New("the database is locked")

const (
	lockPatience = 30 * time.Second
	lockPause    = 5 * time.Millisecond
	lockPauseMax = 200 * time.Millisecond
)

// writerSettings keep the pages that a batch changes in memory until it is committed
// (8 MiB), and let several batches share one checkpoint of the log (16 MiB).
const writerSettings = `PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 4000`

// write runs do in an immediate transaction of its own connection, and commits.
// While another process holds the lock it is tried again, [ErrBusy] after 30 s.
func (s *Store) write(ctx context.Context, do func(context.Context, *sql.Conn) error) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open connection: %w", err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, writerSettings); err != nil {
		return fmt.Errorf("set up connection: %w", err)
	}
	deadline := time.Now().Add(lockPatience)
	for pause := lockPause; ; pause = min(2*pause, lockPauseMax) {
		err := transact(ctx, conn, do)
		if !busy(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func transact(ctx context.Context, conn *sql.Conn, do func(context.Context, *sql.Conn) error) (err error) {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	// From here on nothing is cancelled: the transaction is short, must end before
	// the connection goes back to the pool, and the driver spends a goroutine per
	// statement on a context that can end.
	ctx = context.WithoutCancel(ctx)
	defer func() {
		if err != nil {
			_, rollback := conn.ExecContext(ctx, "ROLLBACK")
			if rollback != nil && !busy(err) {
				err = errors.Join(err, fmt.Errorf("roll back: %w", rollback))
			}
		}
	}()
	if err := do(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

// overflow reports a sum that left the 64-bit integers: SUM says so itself, and a
// STRICT table refuses the floating point number that + falls back to.
func overflow(err error) bool {
	if errors.Is(err, ErrSumTooLarge) {
		return true
	}
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_DATATYPE ||
		e.Code() == sqlite3.SQLITE_ERROR && strings.Contains(e.Error(), "integer overflow"))
}

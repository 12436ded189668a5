package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// The lock: after freeFailures failures in a row the name is locked for
// firstLock, and with every further failure twice as long, up to longestLock. A
// quiet forgetFailures makes a clean start.
const (
	freeFailures   = 5
	firstLock      = 30 * time.Second
	longestLock    = time.Hour
	forgetFailures = 24 * time.Hour
	maxFailures    = 1000 // the count goes no further
)

// lockFor returns how long a name is locked after that many failures in a row.
func lockFor(failures int) time.Duration {
	if failures < freeFailures {
		return 0
	}
	if failures-freeFailures > 10 {
		return longestLock
	}
	return min(firstLock<<(failures-freeFailures), longestLock)
}

// Login checks a password and begins a session. Errors: [ErrCredentials],
// *LockedError, [ErrOverloaded].
//
// A name that does not exist costs as much time and is locked in the same way as
// one that does. While a name is locked no password is looked at, not even the
// right one. Failures are counted after the check, so that a burst can try as many
// passwords more as are hashed at the same time.
func (a *Accounts) Login(ctx context.Context, name, password string) (Tokens, error) {
	name = fold(name)
	// What could not have been registered is not looked up or counted: the table of
	// failures holds nothing but names. It costs the same all the same.
	plausible := checkName(name) == nil && len(password) <= 4*MaxPassword
	if plausible {
		if err := a.locked(ctx, name); err != nil {
			return Tokens{}, err
		}
	}
	user, hashed, err := a.find(ctx, name)
	known := err == nil && plausible
	if err != nil && !errors.Is(err, ErrUnknownUser) {
		return Tokens{}, err
	}
	if !known {
		hashed = a.decoy
		if len(password) > 4*MaxPassword {
			password = password[:4*MaxPassword]
		}
	}
	var right bool
	if err := a.hash(ctx, func() (err error) {
		right, err = verifyPassword(hashed, password)
		return err
	}); err != nil {
		return Tokens{}, err
	}
	if !known || !right {
		if plausible {
			if err := a.fail(ctx, name); err != nil {
				return Tokens{}, err
			}
		}
		return Tokens{}, ErrCredentials
	}
	return a.begin(ctx, user)
}

// locked returns a *LockedError while the name is locked.
func (a *Accounts) locked(ctx context.Context, name string) error {
	var until int64
	err := a.db.QueryRowContext(ctx, `SELECT until FROM failures WHERE name = ?`, name).Scan(&until)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read failures: %w", err)
	}
	if left := time.UnixMilli(until).Sub(a.now()); left > 0 {
		return &LockedError{For: left}
	}
	return nil
}

// fail counts a failure.
func (a *Accounts) fail(ctx context.Context, name string) error {
	now := a.now()
	err := a.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM failures WHERE last < ?`, now.Add(-forgetFailures).UnixMilli()); err != nil {
			return err
		}
		var count int
		err := tx.QueryRowContext(ctx, `SELECT count FROM failures WHERE name = ?`, name).Scan(&count)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		count = min(count+1, maxFailures)
		var until int64
		if lock := lockFor(count); lock > 0 {
			until = now.Add(lock).UnixMilli()
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO failures (name, count, last, until) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET count = excluded.count, last = excluded.last, until = excluded.until`,
			name, count, now.UnixMilli(), until)
		return err
	})
	if err != nil {
		return fmt.Errorf("count failure: %w", err)
	}
	return nil
}

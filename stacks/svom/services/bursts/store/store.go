// Package store keeps alert notices, each once, and what those of a burst together
// say.
package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"fairlead/stacks/svom/notice"
)

// Store keeps notices. It is safe for concurrent use, also by several processes on
// one database.
type Store struct{ db *sql.DB }

// New returns a store on a database that init.bursts.sql has prepared.
func New(db *sql.DB) *Store { return &Store{db} }

// ErrUnknown is a burst of which there are no notices.
var ErrUnknown = errors.New("unknown burst")

// Added is what became of a notice.
type Added struct {
	Burst    notice.Burst
	Revision int  // of the burst
	Known    bool // the notice was there already
	// Differs says that a notice of that name was there, with other content, which
	// stays.
	Differs bool
	// Told says that [Store.Told] was called for the notice.
	Told bool
}

// Add stores a notice and what its burst says with it, in one transaction. A notice
// that is there already changes nothing, however often it comes.
func (s *Store) Add(ctx context.Context, n notice.Notice) (Added, error) {
	a, err := s.add(ctx, n)
	if err != nil {
		return Added{}, fmt.Errorf("store notice %s: %w", n.ID, err)
	}
	return a, nil
}

func (s *Store) add(ctx context.Context, n notice.Notice) (a Added, err error) {
	body, err := json.Marshal(n)
	if err != nil {
		return a, err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return a, err
	}
	defer func() {
		if e := tx.Rollback(); e != nil && !errors.Is(e, sql.ErrTxDone) {
			err = errors.Join(err, e)
		}
	}()
	var stored, burst string
	err = tx.QueryRowContext(ctx, `SELECT body, burst, told FROM notices WHERE id = ? AND serial = ?`, n.ID, n.Serial).Scan(&stored, &burst, &a.Told)
	switch {
	case err == nil:
		a.Known, a.Differs = true, stored != string(body)
		var text string
		if err := tx.QueryRowContext(ctx, `SELECT summary, revision FROM bursts WHERE id = ?`, burst).Scan(&text, &a.Revision); err != nil {
			return a, err
		}
		return a, json.Unmarshal([]byte(text), &a.Burst)
	case !errors.Is(err, sql.ErrNoRows):
		return a, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO notices (id, serial, burst, body) VALUES (?, ?, ?, ?)`, n.ID, n.Serial, n.Burst, string(body)); err != nil {
		return a, err
	}
	all, err := notices(ctx, tx, n.Burst)
	if err != nil {
		return a, err
	}
	a.Burst = notice.Summary(all)
	text, err := json.Marshal(a.Burst)
	if err != nil {
		return a, err
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO bursts (id, last, revision, summary) VALUES (?1, ?2, 1, ?3)
		ON CONFLICT (id) DO UPDATE SET last = ?2, revision = revision + 1, summary = ?3 RETURNING revision`,
		n.Burst, a.Burst.Last.Format(time.RFC3339Nano), string(text)).Scan(&a.Revision)
	if err != nil {
		return a, err
	}
	return a, tx.Commit()
}

// Told remembers that what follows from a notice was published.
func (s *Store) Told(ctx context.Context, n notice.Notice) error {
	if _, err := s.db.ExecContext(ctx, `UPDATE notices SET told = 1 WHERE id = ? AND serial = ?`, n.ID, n.Serial); err != nil {
		return fmt.Errorf("remember notice %s: %w", n.ID, err)
	}
	return nil
}

// Newest returns at most limit bursts, those with the newest notices first.
func (s *Store) Newest(ctx context.Context, limit int) ([]notice.Burst, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT summary FROM bursts ORDER BY last DESC, id DESC LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("list bursts: %w", err)
	}
	defer rows.Close()
	list := []notice.Burst{}
	for rows.Next() {
		var text string
		var b notice.Burst
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("list bursts: %w", err)
		}
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			return nil, fmt.Errorf("list bursts: %w", err)
		}
		list = append(list, b)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list bursts: %w", err)
	}
	return list, nil
}

// Burst returns what a burst's notices together say, and all of them by date. It
// returns [ErrUnknown] if there are none.
func (s *Store) Burst(ctx context.Context, id string) (notice.Burst, []notice.Notice, error) {
	all, err := notices(ctx, s.db, id)
	if err != nil {
		return notice.Burst{}, nil, fmt.Errorf("read burst: %w", err)
	}
	if len(all) == 0 {
		return notice.Burst{}, nil, fmt.Errorf("read burst: %w", ErrUnknown)
	}
	return notice.Summary(all), all, nil
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func notices(ctx context.Context, q querier, burst string) ([]notice.Notice, error) {
	rows, err := q.QueryContext(ctx, `SELECT body FROM notices WHERE burst = ?`, burst)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []notice.Notice
	for rows.Next() {
		var text string
		var n notice.Notice
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, rows.Err()
}

package flows

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
)

// part is one row of the table slices.
type part struct {
	group
	slice   int
	chapter string
}

type difference struct {
	value   Amount
	records int
}

// code is one row of the table codes.
type code struct {
	reporter, period int
	flow, cmd        string
}

// sums collects what a batch changes in the tables slices, totals, chapters and codes.
type sums struct {
	parts    map[part]difference
	codes    map[code]int
	overflow bool
}

func newSums() *sums { return &sums{parts: map[part]difference{}, codes: map[code]int{}} }

func (s *sums) add(k Key, value Amount, records int) {
	p := part{group{k.Reporter, k.Period, k.Flow, k.Partner}, k.slice(), k.Chapter()}
	d := s.parts[p]
	sum, ok := d.value.plus(value)
	s.overflow = s.overflow || !ok
	s.parts[p] = difference{sum, d.records + records}
	if records != 0 {
		s.codes[code{k.Reporter, k.Period, k.Flow, k.Cmd}] += records
	}
}

func (s *sums) saveCodes(ctx context.Context, conn *sql.Conn) error {
	if len(s.codes) == 0 {
		return nil
	}
	add, err := conn.PrepareContext(ctx, `INSERT INTO codes (reporter, period, flow, cmd, records) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET records = records + excluded.records`)
	if err != nil {
		return fmt.Errorf("prepare codes: %w", err)
	}
	defer add.Close()
	for c, n := range s.codes {
		if _, err := add.ExecContext(ctx, c.reporter, c.period, c.flow, c.cmd, n); err != nil {
			return fmt.Errorf("count codes: %w", err)
		}
	}
	return nil
}

// save adds the differences to slices, and works out anew which slice counts in
// every group that was touched.
func (s *sums) save(ctx context.Context, conn *sql.Conn) error {
	if s.overflow {
		return ErrSumTooLarge
	}
	if len(s.parts) == 0 {
		return nil
	}
	if err := s.saveCodes(ctx, conn); err != nil {
		return err
	}
	parts := slices.SortedFunc(maps.Keys(s.parts), func(a, b part) int {
		return cmp.Or(compareGroups(a.group, b.group), cmp.Compare(a.slice, b.slice), cmp.Compare(a.chapter, b.chapter))
	})
	if _, err := conn.ExecContext(ctx, `CREATE TEMP TABLE IF NOT EXISTS touched (reporter INTEGER, period INTEGER, flow TEXT, partner INTEGER);
		DELETE FROM touched`); err != nil {
		return fmt.Errorf("prepare sums: %w", err)
	}
	add, err := conn.PrepareContext(ctx, `INSERT INTO slices (reporter, period, flow, partner, slice, chapter, value, records)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value, records = records + excluded.records`)
	if err != nil {
		return fmt.Errorf("prepare sums: %w", err)
	}
	defer add.Close()
	touch, err := conn.PrepareContext(ctx, `INSERT INTO touched (reporter, period, flow, partner) VALUES (?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("prepare sums: %w", err)
	}
	defer touch.Close()
	var last group
	for i, p := range parts {
		d := s.parts[p]
		if _, err := add.ExecContext(ctx, int64(p.reporter), int64(p.period), p.flow, int64(p.partner), int64(p.slice), p.chapter, int64(d.value), int64(d.records)); err != nil {
			return fmt.Errorf("add to sums: %w", err)
		}
		if i == 0 || p.group != last {
			last = p.group
			if _, err := touch.ExecContext(ctx, int64(p.reporter), int64(p.period), p.flow, int64(p.partner)); err != nil {
				return fmt.Errorf("mark sums: %w", err)
			}
		}
	}
	for _, statement := range [...]string{choose, clearChapters, chooseChapters} {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("choose what counts: %w", err)
		}
	}
	return nil
}

// The statements that work out what counts in the touched groups. CROSS JOIN keeps
// SQLite from turning the order round: the touched groups are few, the tables are
// large.
const (
	choose = `INSERT INTO totals (reporter, period, flow, partner, value, records)
		SELECT t.reporter, t.period, t.flow, t.partner, SUM(s.value), SUM(s.records)
		FROM touched t CROSS JOIN slices s USING (reporter, period, flow, partner)
		WHERE s.slice = (SELECT MIN(m.slice) FROM slices m WHERE m.reporter = t.reporter AND m.period = t.period
			AND m.flow = t.flow AND m.partner = t.partner)
		GROUP BY t.rowid
		ON CONFLICT DO UPDATE SET value = excluded.value, records = excluded.records`

	clearChapters = `DELETE FROM chapters WHERE (reporter, period, flow, partner, chapter) IN (
		SELECT c.reporter, c.period, c.flow, c.partner, c.chapter
		FROM touched t CROSS JOIN chapters c USING (reporter, period, flow, partner))`

	// A slice of TOTAL is below 1000, one of chapters is 2000 or more.
	chooseChapters = `INSERT INTO chapters (reporter, period, flow, partner, chapter, value, records)
		SELECT s.reporter, s.period, s.flow, s.partner, s.chapter, s.value, s.records
		FROM touched t CROSS JOIN slices s USING (reporter, period, flow, partner)
		WHERE s.slice = (SELECT MIN(m.slice) FROM slices m WHERE m.reporter = t.reporter AND m.period = t.period
			AND m.flow = t.flow AND m.partner = t.partner AND m.slice >= 1000)`
)

// removeSamples empties the tables when they hold invented samples, and returns
// how many flows went.
func removeSamples(ctx context.Context, conn *sql.Conn) (int, error) {
	var sample int
	if err := conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(sample), 0) FROM origin`).Scan(&sample); err != nil {
		return 0, fmt.Errorf("read origin: %w", err)
	}
	if sample == 0 {
		return 0, nil
	}
	gone, err := conn.ExecContext(ctx, `DELETE FROM flows`)
	if err != nil {
		return 0, fmt.Errorf("remove samples: %w", err)
	}
	if _, err := conn.ExecContext(ctx, `DELETE FROM slices; DELETE FROM totals; DELETE FROM chapters; DELETE FROM codes; DELETE FROM origin`); err != nil {
		return 0, fmt.Errorf("remove samples: %w", err)
	}
	n, err := gone.RowsAffected()
	return int(n), err
}

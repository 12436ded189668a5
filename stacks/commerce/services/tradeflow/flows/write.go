package flows

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

const (
	// lookUpSize is how many flows are looked up at a time: the driver binds in time
	// quadratic in the parameters.
	lookUpSize  = 8
	flowColumns = 16
)

// change is what happens to one flow in a batch.
type change struct {
	stored bool   // it is in the database already
	dirty  bool   // it must be written
	old    Amount // its value in the database
	now    Record
}

// known reports whether the flow is there, stored or from earlier in the batch.
func (c *change) known() bool { return c.stored || c.dirty }

// key returns the parts of the key as database/sql takes them fastest.
func (c *change) key() [9]any {
	k := &c.now.Key
	return [...]any{
		int64(k.Reporter), int64(k.Period), k.Flow, int64(k.Partner), k.Cmd, k.Class,
		int64(k.Partner2), k.Customs, int64(k.Mot),
	}
}

// plain reports whether the flow tells nothing but its value, and has the defaults
// for what splits it.
func (c *change) plain() bool {
	r := &c.now
	return r.Class == DefaultClass && r.Partner2 == DefaultPartner2 && r.Customs == DefaultCustoms && r.Mot == DefaultMot &&
		!r.CIF.Known && !r.FOB.Known && !r.Unit.Known && !r.Quantity.Known && !r.NetWeight.Known && !r.GrossWeight.Known
}

// apply stores one batch within a transaction, and keeps the sums.
func apply(ctx context.Context, conn *sql.Conn, records []Record) (outcome, error) {
	var done outcome
	removed, err := removeSamples(ctx, conn)
	if err != nil {
		return done, err
	}
	done.samplesRemoved = removed

	// One change per key; of belongs to records.
	var (
		changes = make([]change, 0, len(records)) // never grows: pointers into it stay good
		of      = make([]*change, len(records))
		at      = make(map[Key]*change, len(records))
	)
	for i := range records {
		c, ok := at[records[i].Key]
		if !ok {
			changes = append(changes, change{now: Record{Key: records[i].Key}})
			c = &changes[len(changes)-1]
			at[records[i].Key] = c
		}
		of[i] = c
	}
	// In the order of the tables, so that neighbours are written after each other.
	ordered := make([]*change, len(changes))
	for i := range changes {
		ordered[i] = &changes[i]
	}
	slices.SortFunc(ordered, func(a, b *change) int { return compareKeys(&a.now.Key, &b.now.Key) })

	seen, err := notFresh(ctx, conn, ordered)
	if err != nil {
		return done, err
	}
	if err := lookUp(ctx, conn, seen); err != nil {
		return done, fmt.Errorf("look up flows: %w", err)
	}
	for i := range records {
		c := of[i]
		if !c.known() {
			c.now, c.dirty = records[i], true
			done.inserted++
			continue
		}
		merged := c.now.merge(records[i])
		if merged == c.now {
			done.unchanged++
			continue
		}
		c.now, c.dirty = merged, true
		done.updated++
	}
	sums := newSums()
	if err := write(ctx, conn, ordered, sums); err != nil {
		return done, err
	}
	return done, sums.save(ctx, conn)
}

// notFresh leaves out the flows of reporters that have nothing at all in that period
// and flow: what is not there need not be looked up one by one.
func notFresh(ctx context.Context, conn *sql.Conn, ordered []*change) ([]*change, error) {
	anything, err := conn.PrepareContext(ctx, `SELECT EXISTS (SELECT 1 FROM totals WHERE reporter = ? AND period = ? AND flow = ?)`)
	if err != nil {
		return nil, fmt.Errorf("prepare look up: %w", err)
	}
	defer anything.Close()
	seen := make([]*change, 0, len(ordered))
	for len(ordered) > 0 {
		first := ordered[0].now.Key
		n := slices.IndexFunc(ordered, func(c *change) bool {
			return c.now.Reporter != first.Reporter || c.now.Period != first.Period || c.now.Flow != first.Flow
		})
		if n < 0 {
			n = len(ordered)
		}
		var exists bool
		if err := anything.QueryRowContext(ctx, first.Reporter, first.Period, first.Flow).Scan(&exists); err != nil {
			return nil, fmt.Errorf("look for reporter %d in %d: %w", first.Reporter, first.Period, err)
		}
		if exists {
			seen = append(seen, ordered[:n]...)
		}
		ordered = ordered[n:]
	}
	return seen, nil
}

// lookUp reads what is stored of the flows.
func lookUp(ctx context.Context, conn *sql.Conn, changes []*change) error {
	var stmt *sql.Stmt
	size := 0
	defer func() {
		if stmt != nil {
			_ = stmt.Close()
		}
	}()
	args := make([]any, 0, lookUpSize*len(new(change).key()))
	for chunk := range slices.Chunk(changes, lookUpSize) {
		if len(chunk) != size {
			if stmt != nil {
				_ = stmt.Close()
			}
			var err error
			if stmt, err = conn.PrepareContext(ctx, lookUpQuery(len(chunk))); err != nil {
				return err
			}
			size = len(chunk)
		}
		args = args[:0]
		for _, c := range chunk {
			key := c.key()
			args = append(args, key[:]...)
		}
		if err := lookUpChunk(ctx, stmt, args, chunk); err != nil {
			return err
		}
	}
	return nil
}

func lookUpQuery(n int) string {
	var rows strings.Builder
	for i := range n {
		if i > 0 {
			rows.WriteString(", ")
		}
		fmt.Fprintf(&rows, "(%d, ?, ?, ?, ?, ?, ?, ?, ?, ?)", i)
	}
	return `WITH wanted(i, reporter, period, flow, partner, cmd, class, partner2, customs, mot) AS (VALUES ` + rows.String() + `)
		SELECT i, value, cif, fob, unit, qty, net, gross FROM wanted CROSS JOIN flows
		USING (reporter, period, flow, partner, cmd, class, partner2, customs, mot)`
}

func lookUpChunk(ctx context.Context, stmt *sql.Stmt, args []any, chunk []*change) error {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var i int
		var r Record
		if err := rows.Scan(&i, &r.Value, &r.CIF, &r.FOB, &r.Unit, &r.Quantity, &r.NetWeight, &r.GrossWeight); err != nil {
			return err
		}
		c := chunk[i]
		r.Key = c.now.Key
		c.stored, c.old, c.now = true, r.Value, r
	}
	return rows.Err()
}

// Most flows of most files are plain: what need not be bound takes no time.
const (
	insertPlain = `INSERT INTO flows (reporter, period, flow, partner, cmd, class, partner2, customs, mot, value)
		VALUES (?, ?, ?, ?, ?, '` + DefaultClass + `', 0, '` + DefaultCustoms + `', 0, ?)`
	insertFlow = `INSERT INTO flows (reporter, period, flow, partner, cmd, class, partner2, customs, mot, value, cif, fob, unit, qty, net, gross)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	updateFlow = `UPDATE flows SET value = ?, cif = ?, fob = ?, unit = ?, qty = ?, net = ?, gross = ?
		WHERE reporter = ? AND period = ? AND flow = ? AND partner = ? AND cmd = ? AND class = ? AND partner2 = ? AND customs = ? AND mot = ?`
)

// write stores the flows that are new or differ, and tells sums.
func write(ctx context.Context, conn *sql.Conn, changes []*change, sums *sums) error {
	var plain, insert, update *sql.Stmt
	for _, s := range [...]struct {
		to    **sql.Stmt
		query string
	}{{&plain, insertPlain}, {&insert, insertFlow}, {&update, updateFlow}} {
		stmt, err := conn.PrepareContext(ctx, s.query)
		if err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		defer stmt.Close()
		*s.to = stmt
	}
	args := make([]any, 0, flowColumns)
	for _, c := range changes {
		if !c.dirty {
			continue
		}
		r, key := &c.now, c.key()
		var err error
		switch {
		case c.stored:
			args = append(append(args[:0], r.amounts()...), key[:]...)
			_, err = update.ExecContext(ctx, args...)
		case c.plain():
			args = append(append(args[:0], key[:5]...), int64(r.Value))
			_, err = plain.ExecContext(ctx, args...)
		default:
			args = append(append(args[:0], key[:]...), r.amounts()...)
			_, err = insert.ExecContext(ctx, args...)
		}
		if err != nil {
			return fmt.Errorf("write flow: %w", err)
		}
		switch {
		case !c.stored:
			sums.add(r.Key, r.Value, 1)
		case r.Value != c.old:
			sums.add(r.Key, r.Value-c.old, 0)
		}
	}
	return nil
}

// amounts returns the columns that are not of the key.
func (r *Record) amounts() []any {
	return []any{int64(r.Value), r.CIF.arg(), r.FOB.arg(), r.Unit.arg(), r.Quantity.arg(), r.NetWeight.arg(), r.GrossWeight.arg()}
}

// arg is how database/sql takes the measure.
func (m Measure) arg() any {
	if !m.Known {
		return nil
	}
	return int64(m.Amount)
}

// Scan reads a nullable integer column.
func (m *Measure) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*m = Measure{}
	case int64:
		*m = Measure{Amount(v), true}
	default:
		return fmt.Errorf("read measure: %T is not an integer", src)
	}
	return nil
}

// group is what the rule for sums looks at: within it one slice counts.
type group struct {
	reporter, period int
	flow             string
	partner          int
}

func compareGroups(a, b group) int {
	return cmp.Or(cmp.Compare(a.reporter, b.reporter), cmp.Compare(a.period, b.period),
		cmp.Compare(a.flow, b.flow), cmp.Compare(a.partner, b.partner))
}

package flows

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

const (
	batchSize      = 8192 // records per transaction
	lookupSize     = 8    // records per look-up; the driver binds in time quadratic in the parameters
	firstRejected  = 20   // rejections that a report tells one by one
	maxInterned    = 1 << 16
	recordColumns  = 16
	flowKeyColumns = 9
)

// Report is what an import did.
type Report struct {
	Format    Format `json:"format"`
	Received  int    `json:"received"`  // records that were read
	Inserted  int    `json:"inserted"`  // were not there
	Updated   int    `json:"updated"`   // were there, and differ
	Unchanged int    `json:"unchanged"` // were there, and are the same
	Rejected  int    `json:"rejected"`
	// Reasons counts the rejected records.
	Reasons map[Reason]int `json:"reasons"`
	// Rejections are the first 20.
	Rejections []RejectedRecord `json:"rejections"`
	// Batches is how many transactions were committed.
	Batches int `json:"batches"`
	// SamplesRemoved is how many invented sample flows made room.
	SamplesRemoved int `json:"samples_removed,omitempty"`
	// Complete is false when the upload broke off: what was committed before
	// stays, the rest was not stored.
	Complete bool `json:"complete"`
	// NotStored is how many of the received records were lost with the break.
	NotStored int `json:"not_stored,omitempty"`
}

// RejectedRecord is one record that was not taken.
type RejectedRecord struct {
	At     int    `json:"at"` // record of a JSON answer from 1, line of a CSV file
	Reason Reason `json:"reason"`
	Detail string `json:"detail"`
}

// Import stores the records of an upload. It reads as it goes, with a bounded
// amount of memory, in transactions of up to 8,192 records. It is idempotent: the
// same upload again changes nothing, so that one that broke off is simply sent
// again. Of records with the same key the last one counts; what it does not tell
// (a null, a column that is not there) keeps its stored value.
//
// The report is valid also with an error: a *FormatError (the upload is at fault),
// a *ReadError (it broke off), [ErrBusy], or the database's.
func (s *Store) Import(ctx context.Context, r io.Reader, f Format, areas *Areas) (Report, error) {
	report := Report{Format: f, Reasons: map[Reason]int{}, Rejections: []RejectedRecord{}}
	src, f, err := openSource(r, f)
	report.Format = f
	if err != nil {
		return report, err
	}
	// While one batch is stored the next one is read.
	c := s.startCommitter(ctx)
	err = errors.Join(report.readAll(src, areas, c), c.finish())
	report.Inserted, report.Updated, report.Unchanged = c.done.inserted, c.done.updated, c.done.unchanged
	report.SamplesRemoved, report.Batches = c.done.samplesRemoved, c.batches
	report.Complete = err == nil
	report.NotStored = report.Received - report.Rejected - report.Inserted - report.Updated - report.Unchanged
	return report, err
}

// readAll hands the records of src over in batches, up to its end or an error. Of a
// source that breaks off, the batch that was begun is not handed over.
func (r *Report) readAll(src source, areas *Areas, c *committer) error {
	var w raw
	intern := interner{}
	pending := <-c.free
	for {
		at, err := src.read(&w)
		if errors.Is(err, io.EOF) {
			c.take(pending)
			return nil
		}
		var record Record
		var bad *Rejection
		if err == nil {
			record, bad = w.record(areas)
		} else if !errors.As(err, &bad) {
			return err
		}
		r.Received++
		if bad != nil {
			r.reject(at, bad)
			continue
		}
		intern.keep(&record.Key)
		if pending = append(pending, record); len(pending) < batchSize {
			continue
		}
		if !c.take(pending) {
			return nil // finish says why
		}
		pending = <-c.free
	}
}

// committer stores batches in a goroutine of its own, in order. There are two
// buffers: one is stored while the other one is filled.
type committer struct {
	full, free chan []Record
	stopped    chan struct{} // closed when no more batches are stored

	// These belong to the goroutine until stopped is closed.
	done    outcome
	batches int
	err     error
}

func (s *Store) startCommitter(ctx context.Context) *committer {
	c := &committer{full: make(chan []Record), free: make(chan []Record, 2), stopped: make(chan struct{})}
	c.free <- nil
	c.free <- nil
	go func() {
		defer close(c.stopped)
		for records := range c.full {
			var batch outcome
			c.err = s.write(ctx, func(ctx context.Context, conn *sql.Conn) error {
				var err error
				batch, err = apply(ctx, conn, records)
				return err
			})
			if overflow(c.err) {
				c.err = &FormatError{Problem: "the sums would no longer fit: the values are too large", Cause: c.err}
			}
			if c.err != nil {
				return
			}
			c.done.add(batch)
			c.batches++
			c.free <- records[:0]
		}
	}()
	return c
}

// take hands a batch over, and reports whether it will be stored unless that fails.
func (c *committer) take(records []Record) bool {
	if len(records) == 0 {
		return true
	}
	select {
	case c.full <- records:
		return true
	case <-c.stopped:
		return false
	}
}

// finish waits until everything is stored, and returns what went wrong.
func (c *committer) finish() error {
	close(c.full)
	<-c.stopped
	if c.err != nil {
		return fmt.Errorf("store batch: %w", c.err)
	}
	return nil
}

func (r *Report) reject(at int, bad *Rejection) {
	r.Rejected++
	r.Reasons[bad.Reason]++
	if len(r.Rejections) < firstRejected {
		r.Rejections = append(r.Rejections, RejectedRecord{At: at, Reason: bad.Reason, Detail: bad.Detail})
	}
}

// interner keeps one copy of the few texts that keys are made of, so that a
// pending record does not hold on to its whole line.
type interner map[string]string

func (in interner) keep(k *Key) {
	for _, s := range [...]*string{&k.Cmd, &k.Class, &k.Flow, &k.Customs} {
		kept, ok := in[*s]
		if !ok {
			kept = strings.Clone(*s)
			if len(in) < maxInterned {
				in[kept] = kept
			}
		}
		*s = kept
	}
}

// outcome counts what a batch did.
type outcome struct{ inserted, updated, unchanged, samplesRemoved int }

func (o *outcome) add(other outcome) {
	o.inserted += other.inserted
	o.updated += other.updated
	o.unchanged += other.unchanged
	o.samplesRemoved += other.samplesRemoved
}

// change is what happens to one flow in a batch.
type change struct {
	stored bool // it is in the database already
	dirty  bool
	old    Amount // its value there
	now    Record
}

// apply stores one batch within a transaction, and keeps the sums.
func apply(ctx context.Context, conn *sql.Conn, records []Record) (outcome, error) {
	var done outcome
	removed, err := removeSamples(ctx, conn)
	if err != nil {
		return done, err
	}
	done.samplesRemoved = removed
	// Sorted, neighbours in the tables are written after each other.
	changes := make(map[Key]*change, len(records))
	block := make([]change, 0, len(records))
	for i := range records {
		if _, ok := changes[records[i].Key]; !ok {
			block = append(block, change{now: Record{Key: records[i].Key}})
			changes[records[i].Key] = &block[len(block)-1]
		}
	}
	keys := slices.SortedFunc(maps.Keys(changes), compareKeys)
	seen, err := notFresh(ctx, conn, keys)
	if err != nil {
		return done, err
	}
	if err := lookUp(ctx, conn, seen, changes); err != nil {
		return done, fmt.Errorf("look up: %w", err)
	}
	known := func(c *change) bool { return c.stored || c.dirty }
	for _, r := range records {
		c := changes[r.Key]
		if !known(c) {
			c.now, c.dirty = r, true
			done.inserted++
			continue
		}
		merged := c.now.merge(r)
		if merged == c.now {
			done.unchanged++
			continue
		}
		c.now, c.dirty = merged, true
		done.updated++
	}
	sums := newSums()
	if err := store(ctx, conn, keys, changes, sums); err != nil {
		return done, err
	}
	return done, sums.save(ctx, conn)
}

// notFresh leaves out the keys of reporters that have nothing at all in that period
// and flow: what is not there need not be looked up one by one.
func notFresh(ctx context.Context, conn *sql.Conn, keys []Key) ([]Key, error) {
	any, err := conn.PrepareContext(ctx, `SELECT EXISTS (SELECT 1 FROM totals WHERE reporter = ? AND period = ? AND flow = ?)`)
	if err != nil {
		return nil, fmt.Errorf("prepare look up: %w", err)
	}
	defer any.Close()
	seen := make([]Key, 0, len(keys))
	for len(keys) > 0 {
		first := keys[0]
		n := slices.IndexFunc(keys, func(k Key) bool {
			return k.Reporter != first.Reporter || k.Period != first.Period || k.Flow != first.Flow
		})
		if n < 0 {
			n = len(keys)
		}
		var exists bool
		if err := any.QueryRowContext(ctx, first.Reporter, first.Period, first.Flow).Scan(&exists); err != nil {
			return nil, fmt.Errorf("look for %d in %d: %w", first.Reporter, first.Period, err)
		}
		if exists {
			seen = append(seen, keys[:n]...)
		}
		keys = keys[n:]
	}
	return seen, nil
}

// lookUp reads what is stored under the keys.
func lookUp(ctx context.Context, conn *sql.Conn, keys []Key, changes map[Key]*change) error {
	var full *sql.Stmt
	for chunk := range slices.Chunk(keys, lookupSize) {
		stmt := full
		if stmt == nil || len(chunk) < lookupSize {
			var err error
			if stmt, err = conn.PrepareContext(ctx, lookUpQuery(len(chunk))); err != nil {
				return err
			}
			defer stmt.Close()
			if len(chunk) == lookupSize {
				full = stmt
			}
		}
		args := make([]any, 0, lookupSize*flowKeyColumns)
		for _, k := range chunk {
			args = append(args, k.Reporter, k.Period, k.Flow, k.Partner, k.Cmd, k.Class, k.Partner2, k.Customs, k.Mot)
		}
		if err := lookUpChunk(ctx, stmt, args, chunk, changes); err != nil {
			return err
		}
	}
	return nil
}

func lookUpQuery(n int) string {
	return `WITH wanted(i, reporter, period, flow, partner, cmd, class, partner2, customs, mot) AS (VALUES ` +
		valueRows(n) + `) SELECT i, value, cif, fob, unit, qty, net, gross FROM wanted CROSS JOIN flows
		USING (reporter, period, flow, partner, cmd, class, partner2, customs, mot)`
}

// valueRows returns "(0, ?, ...), (1, ?, ...)" with nine parameters each.
func valueRows(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d%s)", i, strings.Repeat(", ?", flowKeyColumns))
	}
	return b.String()
}

func lookUpChunk(ctx context.Context, stmt *sql.Stmt, args []any, chunk []Key, changes map[Key]*change) error {
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
		c := changes[chunk[i]]
		r.Key = c.now.Key
		c.stored, c.old, c.now = true, r.Value, r
	}
	return rows.Err()
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

// store writes the flows that are new or differ, and tells sums.
func store(ctx context.Context, conn *sql.Conn, keys []Key, changes map[Key]*change, sums *sums) error {
	const begin = `INSERT INTO flows (reporter, period, flow, partner, cmd, class, partner2, customs, mot, value`
	// Most files tell nothing but the value: binding six times nothing takes its time.
	brief, err := conn.PrepareContext(ctx, begin+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("prepare insert: %w", err)
	}
	defer brief.Close()
	insert, err := conn.PrepareContext(ctx, begin+`, cif, fob, unit, qty, net, gross) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("prepare insert: %w", err)
	}
	defer insert.Close()
	update, err := conn.PrepareContext(ctx, `UPDATE flows SET value = ?, cif = ?, fob = ?, unit = ?, qty = ?, net = ?, gross = ?
		WHERE reporter = ? AND period = ? AND flow = ? AND partner = ? AND cmd = ? AND class = ? AND partner2 = ? AND customs = ? AND mot = ?`)
	if err != nil {
		return fmt.Errorf("prepare update: %w", err)
	}
	defer update.Close()
	args := make([]any, 0, recordColumns)
	for _, k := range keys {
		c := changes[k]
		if !c.dirty {
			continue
		}
		r := &c.now
		key := [...]any{k.Reporter, k.Period, k.Flow, k.Partner, k.Cmd, k.Class, k.Partner2, k.Customs, k.Mot}
		amounts := [...]any{int64(r.Value), r.CIF.arg(), r.FOB.arg(), r.Unit.arg(), r.Quantity.arg(), r.NetWeight.arg(), r.GrossWeight.arg()}
		if c.stored {
			if _, err := update.ExecContext(ctx, append(append(args[:0], amounts[:]...), key[:]...)...); err != nil {
				return fmt.Errorf("update flow: %w", err)
			}
			if r.Value != c.old {
				sums.add(k, r.Value-c.old, 0)
			}
			continue
		}
		stmt, given := insert, amounts[:]
		if !r.measured() {
			stmt, given = brief, amounts[:1]
		}
		if _, err := stmt.ExecContext(ctx, append(append(args[:0], key[:]...), given...)...); err != nil {
			return fmt.Errorf("insert flow: %w", err)
		}
		sums.add(k, r.Value, 1)
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

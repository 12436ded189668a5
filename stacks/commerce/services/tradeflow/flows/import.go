package flows

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	batchSize     = 16384 // records per transaction
	firstRejected = 20    // rejections that a report tells one by one
	maxInterned   = 1 << 16
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
// amount of memory, in transactions of up to 16,384 records. It is idempotent: the
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
		var bad *RejectError
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
		if pending = append(pending, record); len(pending) < c.size {
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
	size       int // records of a batch
	full, free chan []Record
	stopped    chan struct{} // closed when no more batches are stored

	// These belong to the goroutine until stopped is closed.
	done    outcome
	batches int
	err     error
}

func (s *Store) startCommitter(ctx context.Context) *committer {
	c := &committer{size: s.batch, full: make(chan []Record), free: make(chan []Record, 2), stopped: make(chan struct{})}
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

func (r *Report) reject(at int, bad *RejectError) {
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

package tree

import (
	"bufio"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	maxReference = 64 << 20 // bytes of a reference after decompression
	maxEntries   = 50_000
	maxText      = 2000 // bytes
	shownEntries = 20
)

// Report is what an import of the reference did.
type Report struct {
	Received   int        `json:"received"`
	Inserted   int        `json:"inserted"`
	Updated    int        `json:"updated"`
	Unchanged  int        `json:"unchanged"`
	Rejected   int        `json:"rejected"`
	Rejections []Rejected `json:"rejections"` // the first 20
}

// Rejected is an entry that was not taken.
type Rejected struct {
	At     int    `json:"at"` // from 1
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// FormatError is a reference that is not one. Its text may be shown to the sender.
type FormatError struct {
	Problem string
	Cause   error
}

// Error makes a FormatError an error.
func (e *FormatError) Error() string { return e.Problem }

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Cause }

// entry is one code in the API's reference.
type entry struct {
	ID     string `json:"id"`
	Text   string `json:"text"`
	Parent string `json:"parent"`
	Leaf   string `json:"isLeaf"` // "0" or "1"
	Unit   string `json:"standardUnitAbbr"`
}

// ImportReference takes the Harmonized System as the UN Comtrade API gives it
// ({"results": [...]}), also compressed with gzip. It is read as it comes, and
// stored whole or not at all: a *FormatError, or any other error, changes nothing.
// An entry that is wrong for itself is left out and reported. Codes that the
// reference does not have stay.
func (s *Store) ImportReference(ctx context.Context, r io.Reader) (Report, error) {
	report := Report{Rejections: []Rejected{}}
	entries, err := readReference(r, &report)
	if err != nil {
		return report, err
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		w, err := newWriter(ctx, tx)
		if err != nil {
			return err
		}
		defer w.close()
		for _, c := range entries {
			how, err := w.put(ctx, c)
			if err != nil {
				return err
			}
			switch how {
			case inserted:
				report.Inserted++
			case updated:
				report.Updated++
			case unchanged:
				report.Unchanged++
			}
		}
		return nil
	})
	if err != nil {
		return report, fmt.Errorf("store reference: %w", err)
	}
	return report, nil
}

// readReference returns the entries that are right. Nothing is written while the
// sender is slow: 50,000 entries are a few megabytes.
func readReference(r io.Reader, report *Report) ([]Commodity, error) {
	b := bufio.NewReader(r)
	if magic, err := b.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, &FormatError{"the gzip data is damaged", err}
		}
		b = bufio.NewReader(z)
	}
	limited := &io.LimitedReader{R: b, N: maxReference + 1}
	dec := json.NewDecoder(limited)
	fail := func(err error) error {
		if limited.N <= 0 {
			return &FormatError{"the reference is larger than 64 MiB", err}
		}
		return &FormatError{"the reference is not JSON to its end, or not of the right shape", err}
	}
	if t, err := dec.Token(); err != nil {
		return nil, fail(err)
	} else if t != json.Delim('{') {
		return nil, &FormatError{Problem: "the reference is not a JSON object"}
	}
	var out []Commodity
	found := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fail(err)
		}
		if name != "results" {
			var skip json.RawMessage
			if err := dec.Decode(&skip); err != nil {
				return nil, fail(err)
			}
			continue
		}
		found = true
		if t, err := dec.Token(); err != nil {
			return nil, fail(err)
		} else if t != json.Delim('[') {
			return nil, &FormatError{Problem: "results is not a list"}
		}
		for dec.More() {
			var e entry
			if err := dec.Decode(&e); err != nil {
				return nil, fail(err)
			}
			if report.Received++; report.Received > maxEntries {
				return nil, &FormatError{Problem: fmt.Sprintf("the reference has more than %d entries", maxEntries)}
			}
			c, problem := e.commodity()
			if problem == "" {
				out = append(out, c)
				continue
			}
			report.Rejected++
			if len(report.Rejections) < shownEntries {
				report.Rejections = append(report.Rejections, Rejected{report.Received, fmt.Sprintf("%.20s", e.ID), problem})
			}
		}
		if _, err := dec.Token(); err != nil {
			return nil, fail(err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, fail(err)
	}
	if !found {
		return nil, &FormatError{Problem: "the reference has no list called results"}
	}
	return out, nil
}

// commodity returns the entry, or what is wrong with it.
func (e entry) commodity() (Commodity, string) {
	c := Commodity{Code: strings.TrimSpace(e.ID), Leaf: e.Leaf == "1", Unit: strings.TrimSpace(e.Unit)}
	if !codeFormat.MatchString(c.Code) {
		return c, "the code is not TOTAL or 2, 4 or 6 digits"
	}
	c.Parent, c.Level = parentOf(c.Code), levelOf(c.Code)
	if parent := strings.TrimSpace(e.Parent); c.Code != Total && parent != "" && parent != c.Parent {
		return c, "the parent is not " + c.Parent
	}
	// "0101 - Horses": the code again, which a tree need not repeat.
	// Dashes before it only show the depth.
	c.Text = strings.TrimSpace(e.Text)
	if rest, ok := strings.CutPrefix(c.Text, c.Code); ok {
		c.Text = strings.TrimLeft(rest, " -")
	}
	if c.Text == "" || len(c.Text) > maxText || !utf8.ValidString(c.Text) {
		return c, fmt.Sprintf("the text is empty or longer than %d bytes", maxText)
	}
	if strings.EqualFold(c.Unit, "n/a") {
		c.Unit = ""
	}
	if len(c.Unit) > 40 {
		return c, "the unit is longer than 40 bytes"
	}
	return c, ""
}

type effect int

const (
	inserted effect = iota
	updated
	unchanged
)

// writer puts commodities into the table.
type writer struct{ read, upsert *sql.Stmt }

func newWriter(ctx context.Context, tx *sql.Tx) (*writer, error) {
	read, err := tx.PrepareContext(ctx, `SELECT code, COALESCE(parent, ''), level, leaf, text, unit FROM commodities WHERE code = ?`)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	upsert, err := tx.PrepareContext(ctx, `INSERT INTO commodities (code, parent, level, leaf, text, unit) VALUES (?, NULLIF(?, ''), ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET parent = excluded.parent, level = excluded.level, leaf = excluded.leaf, text = excluded.text, unit = excluded.unit`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare: %w", err), read.Close())
	}
	return &writer{read, upsert}, nil
}

func (w *writer) close() {
	_ = w.read.Close()
	_ = w.upsert.Close()
}

func (w *writer) put(ctx context.Context, c Commodity) (effect, error) {
	var old Commodity
	err := w.read.QueryRowContext(ctx, c.Code).Scan(&old.Code, &old.Parent, &old.Level, &old.Leaf, &old.Text, &old.Unit)
	how := updated
	switch {
	case errors.Is(err, sql.ErrNoRows):
		how = inserted
	case err != nil:
		return how, fmt.Errorf("read commodity %s: %w", c.Code, err)
	case old == c:
		return unchanged, nil
	}
	if _, err := w.upsert.ExecContext(ctx, c.Code, c.Parent, c.Level, c.Leaf, c.Text, c.Unit); err != nil {
		return how, fmt.Errorf("store commodity %s: %w", c.Code, err)
	}
	return how, nil
}

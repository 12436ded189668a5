package flows

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// By is what a summary is by.
type By string

// What a summary can be by.
const (
	ByPartner  By = "partner"
	ByReporter By = "reporter"
	ByYear     By = "year"
	ByChapter  By = "chapter"
)

// ErrBy is a summary by something else.
var ErrBy = errors.New("by is partner, reporter, year or chapter")

// Filter says which flows are meant. Its zero value means all of them.
type Filter struct {
	Reporter *int   // UN code
	Partner  *int   // UN code, 0 is the world
	Year     int    // 0: every year; a year includes its months
	HS       string // prefix of the commodity code, or TOTAL; not for summaries
	Flow     string // M, X, RM or RX
}

// conditions are parts of a WHERE clause, with their arguments.
type conditions struct {
	texts []string
	args  []any
}

func (c *conditions) add(text string, args ...any) {
	c.texts = append(c.texts, text)
	c.args = append(c.args, args...)
}

// where returns the clause, empty without conditions.
func (c *conditions) where() string {
	if len(c.texts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.texts, " AND ")
}

// series adds what the filter says of the reporter, period and flow.
func (f Filter) series(c *conditions) {
	if f.Reporter != nil {
		c.add("t.reporter = ?", *f.Reporter)
	}
	if f.Year != 0 {
		c.add("(t.period = ? OR t.period BETWEEN ? AND ?)", f.Year, f.Year*100+1, f.Year*100+12)
	}
	if f.Flow != "" {
		c.add("t.flow = ?", f.Flow)
	}
}

func (f Filter) partner(c *conditions) {
	if f.Partner != nil {
		c.add("t.partner = ?", *f.Partner)
	}
}

func (f Filter) commodity(c *conditions) {
	switch {
	case f.HS == Total:
		c.add("t.cmd = ?", Total)
	case f.HS != "":
		// All codes are digits, and ':' is what follows the digits.
		c.add("t.cmd >= ? AND t.cmd < ?", f.HS, f.HS+":")
	}
}

// Sums are the sums of one row of a summary, one per flow: they are never added
// to each other, since re-imports are a part of imports, and re-exports one of
// exports. A nil sum means that there is nothing to sum.
type Sums struct {
	Imports   *Amount `json:"imports,omitempty"`
	Exports   *Amount `json:"exports,omitempty"`
	ReImports *Amount `json:"re_imports,omitempty"`
	ReExports *Amount `json:"re_exports,omitempty"`
	// Balance is exports less imports, where both are known.
	Balance *Amount `json:"balance,omitempty"`
	Records int     `json:"records"` // flows that were summed
}

// SummaryRow is what one partner, reporter, year or chapter adds up to.
type SummaryRow struct {
	Key  string `json:"key"` // UN code, year or chapter
	ISO  string `json:"iso,omitempty"`
	Name string `json:"name,omitempty"`
	Sums
}

// Summary is the answer to one question for sums.
type Summary struct {
	By     By           `json:"by"`
	Rows   []SummaryRow `json:"rows"`
	Totals Sums         `json:"totals"`
}

func (s *Sums) of(flow string) **Amount {
	switch flow {
	case "M":
		return &s.Imports
	case "X":
		return &s.Exports
	case "RM":
		return &s.ReImports
	default:
		return &s.ReExports
	}
}

// ErrSumTooLarge is a sum that 64 bits do not hold, above 9 * 10^15.
var ErrSumTooLarge = errors.New("a sum is larger than 9223372036854775.807")

func (s *Sums) add(flow string, value Amount, records int) error {
	sum := s.of(flow)
	if *sum == nil {
		*sum = new(Amount)
	}
	total, ok := (*sum).plus(value)
	if !ok {
		return ErrSumTooLarge
	}
	**sum = total
	s.Records += records
	return nil
}

func (s *Sums) close() {
	if s.Imports != nil && s.Exports != nil {
		balance := *s.Exports - *s.Imports
		s.Balance = &balance
	}
}

// weight orders partners and reporters: what they traded.
func (s *Sums) weight() Amount {
	var w Amount
	for _, a := range [...]*Amount{s.Imports, s.Exports} {
		if a != nil {
			w += *a / 2
		}
	}
	return w
}

// Summarize adds up the flows that the filter means (its HS is not used), each
// value once:
//
//   - Of the flows of one reporter, partner, period and flow exactly one level of
//     commodities counts: the most aggregated one that is there (by chapter: the
//     most aggregated one of two digits or more). Within it the flows that are not
//     split by second partner, customs procedure or transport count before those
//     that are, and of several revisions of the classification the newest counts.
//   - The world as a partner counts only where the reporter has no partners in that
//     period and flow.
//   - A month counts only where the reporter has no figures for its year and flow.
//
// Rows by partner and reporter come largest first, by year and chapter in order.
// Names are not filled in. Errors: [ErrBy] when by is none of those,
// [ErrSumTooLarge].
func (s *Store) Summarize(ctx context.Context, by By, f Filter) (Summary, error) {
	out := Summary{By: by, Rows: []SummaryRow{}}
	// Grouped in the order of the table where that is possible, which needs no
	// sorting; sum puts the groups of one key together.
	var key string
	table, groups := "totals", "t.reporter, t.period, t.flow"
	switch by {
	case ByReporter:
		key = "t.reporter"
	case ByYear:
		key = "CASE WHEN t.period > 9999 THEN t.period / 100 ELSE t.period END"
	case ByPartner:
		key, groups = "t.partner", "t.partner, t.flow"
	case ByChapter:
		table, key, groups = "chapters", "t.chapter", "t.chapter, t.flow"
	default:
		return out, ErrBy
	}
	var c conditions
	f.series(&c)
	f.partner(&c)
	c.add(`(t.partner <> 0 OR NOT EXISTS (SELECT 1 FROM ` + table + ` WHERE reporter = t.reporter
		AND period = t.period AND flow = t.flow AND partner > 0))`)
	c.add(`(t.period <= 9999 OR NOT EXISTS (SELECT 1 FROM ` + table + ` WHERE reporter = t.reporter
		AND period = t.period / 100 AND flow = t.flow))`)
	query := "SELECT " + key + ", t.flow, SUM(t.value), SUM(t.records) FROM " + table + " t" + c.where() + " GROUP BY " + groups
	err := s.sum(ctx, query, c.args, &out)
	if overflow(err) {
		err = ErrSumTooLarge
	}
	if err != nil {
		return out, fmt.Errorf("sum flows by %s: %w", by, err)
	}
	for i := range out.Rows {
		out.Rows[i].close()
	}
	out.Totals.close()
	slices.SortFunc(out.Rows, func(a, b SummaryRow) int {
		if by == ByPartner || by == ByReporter {
			return cmp.Or(cmp.Compare(b.weight(), a.weight()), cmp.Compare(a.Key, b.Key))
		}
		return cmp.Compare(a.Key, b.Key)
	})
	return out, nil
}

func (s *Store) sum(ctx context.Context, query string, args []any, out *Summary) error {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	at := map[string]int{}
	for rows.Next() {
		var key, flow string
		var value, records int64
		if err := rows.Scan((*keyText)(&key), &flow, &value, &records); err != nil {
			return err
		}
		i, ok := at[key]
		if !ok {
			i = len(out.Rows)
			at[key] = i
			out.Rows = append(out.Rows, SummaryRow{Key: key})
		}
		if err := errors.Join(
			out.Rows[i].add(flow, Amount(value), int(records)),
			out.Totals.add(flow, Amount(value), int(records)),
		); err != nil {
			return err
		}
	}
	return rows.Err()
}

// keyText scans a code, a year or a chapter as text.
type keyText string

// Scan implements [sql.Scanner].
func (k *keyText) Scan(src any) error {
	switch v := src.(type) {
	case int64:
		*k = keyText(strconv.FormatInt(v, 10))
	case string:
		*k = keyText(v)
	default:
		return fmt.Errorf("read key: %T is neither a number nor text", src)
	}
	return nil
}

var _ sql.Scanner = (*keyText)(nil)

// Package tree keeps the models behind the trade flows: the commodities of the
// Harmonized System as a tree, and the countries and areas with their UN codes.
//
// A fresh database is filled with samples of our own making: all chapters, some
// headings and subheadings, all areas. The full reference is imported from an
// answer of the UN Comtrade API, which replaces the texts of the samples.
package tree

import (
	"context"
	"database/sql"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Total is the root of the commodities.
const Total = "TOTAL"

// Bounds of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 1000
)

// Commodity is a code of the Harmonized System.
type Commodity struct {
	Code   string `json:"code"`
	Parent string `json:"parent,omitempty"`
	Level  int    `json:"level"` // digits of the code, 0 for TOTAL
	Leaf   bool   `json:"leaf"`
	Text   string `json:"text"`
	Unit   string `json:"unit,omitempty"`
}

// Country is a country or another area of trade statistics.
type Country struct {
	Code int    `json:"code"`
	ISO  string `json:"iso,omitempty"`
	// Kind is country, area (not a country: bunkers, not specified), group, world,
	// or former (in old records only).
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Former is the kind of areas that only old records use.
const Former = "former"

// ErrUnknown is a code that is not there.
var ErrUnknown = errors.New("the code is not known")

//go:embed commodities.csv countries.csv
var samples embed.FS

var codeFormat = regexp.MustCompile(`^(TOTAL|\d{2}|\d{4}|\d{6})$`)

// Store is safe for concurrent use.
type Store struct{ db *sql.DB }

// NewStore returns a store on a database that init.model.sql has prepared.
func NewStore(db *sql.DB) *Store { return &Store{db: db} }

// Seed fills an empty store with the samples, and reports whether it did.
func (s *Store) Seed(ctx context.Context) (bool, error) {
	seeded := false
	err := s.write(ctx, func(tx *sql.Tx) error {
		seeded = false
		var used bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM countries)`).Scan(&used); err != nil || used {
			return err
		}
		seeded = true
		return errors.Join(seedCommodities(ctx, tx), seedCountries(ctx, tx))
	})
	if err != nil {
		return false, fmt.Errorf("seed model: %w", err)
	}
	return seeded, nil
}

func seedCommodities(ctx context.Context, tx *sql.Tx) error {
	rows, err := sample("commodities.csv")
	if err != nil {
		return err
	}
	w, err := newWriter(ctx, tx)
	if err != nil {
		return err
	}
	defer w.close()
	for _, row := range rows {
		code := row[0]
		c := Commodity{Code: code, Parent: parentOf(code), Level: levelOf(code), Leaf: len(code) == 6, Unit: row[1], Text: row[2]}
		if _, err := w.put(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func seedCountries(ctx context.Context, tx *sql.Tx) error {
	rows, err := sample("countries.csv")
	if err != nil {
		return err
	}
	for _, row := range rows {
		code, err := strconv.Atoi(row[0])
		if err != nil {
			return fmt.Errorf("read countries: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO countries (code, iso, kind, name) VALUES (?, ?, ?, ?)`, code, row[1], row[2], row[3]); err != nil {
			return fmt.Errorf("insert country %d: %w", code, err)
		}
	}
	return nil
}

// sample reads one of the embedded files without its header line.
func sample(name string) ([][]string, error) {
	f, err := samples.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open samples: %w", err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return rows[1:], nil
}

// write runs do in a transaction that has the write lock from its start.
func (s *Store) write(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func levelOf(code string) int {
	if code == Total {
		return 0
	}
	return len(code)
}

// parentOf returns the code above by the digits, "" above TOTAL.
func parentOf(code string) string {
	switch {
	case code == Total:
		return ""
	case len(code) <= 2:
		return Total
	default:
		return code[:len(code)-2]
	}
}

// CommodityQuery is a search for commodities. Its zero value finds all.
type CommodityQuery struct {
	Text   string // what the text holds, or the code begins with
	Parent string // only children of that code
	Level  *int   // only that level
	After  string // the last code of the page before
	Limit  int    // 1 to MaxLimit, 0 for DefaultLimit
}

// Commodities is a part of the commodities that were found, by code.
type Commodities struct {
	Items []Commodity `json:"items"`
	Total int         `json:"total"`          // of all pages
	Next  string      `json:"next,omitempty"` // give it as after to get what follows
}

// TOTAL sorts before the chapters.
const byCode = `CASE code WHEN 'TOTAL' THEN '' ELSE code END`

// FindCommodities returns the commodities that the query means, by code.
func (s *Store) FindCommodities(ctx context.Context, q CommodityQuery) (Commodities, error) {
	limit := bounded(q.Limit)
	conditions, args := []string{"1"}, []any{}
	if text := strings.TrimSpace(q.Text); text != "" {
		conditions = append(conditions, `(text LIKE ? ESCAPE '\' OR code LIKE ? ESCAPE '\')`)
		args = append(args, "%"+escapeLike(text)+"%", escapeLike(text)+"%")
	}
	if q.Parent != "" {
		conditions, args = append(conditions, "parent = ?"), append(args, q.Parent)
	}
	if q.Level != nil {
		conditions, args = append(conditions, "level = ?"), append(args, *q.Level)
	}
	var out Commodities
	where := " FROM commodities WHERE " + strings.Join(conditions, " AND ")
	if err := s.db.QueryRowContext(ctx, `SELECT COUNT(*)`+where, args...).Scan(&out.Total); err != nil {
		return out, fmt.Errorf("count commodities: %w", err)
	}
	if q.After != "" {
		after := q.After
		if after == Total {
			after = ""
		}
		where, args = where+" AND "+byCode+" > ?", append(args, after)
	}
	items, err := s.commodities(ctx, `SELECT code, COALESCE(parent, ''), level, leaf, text, unit`+where+` ORDER BY `+byCode+` LIMIT ?`, append(args, limit+1)...)
	if err != nil {
		return out, err
	}
	if len(items) > limit {
		items = items[:limit]
		out.Next = items[limit-1].Code
	}
	out.Items = items
	return out, nil
}

func (s *Store) commodities(ctx context.Context, query string, args ...any) ([]Commodity, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("find commodities: %w", err)
	}
	defer rows.Close()
	items := []Commodity{}
	for rows.Next() {
		var c Commodity
		if err := rows.Scan(&c.Code, &c.Parent, &c.Level, &c.Leaf, &c.Text, &c.Unit); err != nil {
			return nil, fmt.Errorf("read commodity: %w", err)
		}
		items = append(items, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find commodities: %w", err)
	}
	return items, nil
}

// Branch is a commodity with what is above and right below it.
type Branch struct {
	Commodity
	Ancestors []Commodity `json:"ancestors"` // from TOTAL down to the parent
	Children  []Commodity `json:"children"`  // by code, at most MaxLimit
}

// Commodity returns the commodity of that code with its surroundings, or [ErrUnknown].
func (s *Store) Commodity(ctx context.Context, code string) (Branch, error) {
	const fields = `SELECT code, COALESCE(parent, '') AS parent, level, leaf, text, unit FROM commodities `
	// Levels end at six digits: a loop in a damaged reference ends too.
	line, err := s.commodities(ctx, `WITH RECURSIVE line (code, up, n) AS (
			SELECT code, parent, 0 FROM commodities WHERE code = ?
			UNION ALL SELECT c.code, c.parent, n + 1 FROM line JOIN commodities c ON c.code = up WHERE n < 4)
		SELECT c.code, COALESCE(c.parent, ''), level, leaf, text, unit FROM line JOIN commodities c USING (code) ORDER BY n DESC`,
		strings.ToUpper(code))
	if err != nil {
		return Branch{}, err
	}
	if len(line) == 0 {
		return Branch{}, ErrUnknown
	}
	b := Branch{Commodity: line[len(line)-1], Ancestors: line[:len(line)-1]}
	b.Children, err = s.commodities(ctx, fields+`WHERE parent = ? ORDER BY code LIMIT ?`, b.Code, MaxLimit)
	return b, err
}

// CountryQuery is a search for countries and areas. Its zero value finds all that
// are in use.
type CountryQuery struct {
	Text   string // what the name holds, or the ISO letters are
	Kind   string // only that kind
	Former bool   // those of old records too
	After  *int   // the last code of the page before
	Limit  int    // 1 to MaxLimit, 0 for DefaultLimit
}

// Countries is a part of the countries that were found, by code.
type Countries struct {
	Items []Country `json:"items"`
	Total int       `json:"total"`
	Next  string    `json:"next,omitempty"`
}

// FindCountries returns the countries and areas that the query means, by code.
func (s *Store) FindCountries(ctx context.Context, q CountryQuery) (Countries, error) {
	limit := bounded(q.Limit)
	conditions, args := []string{"1"}, []any{}
	if text := strings.TrimSpace(q.Text); text != "" {
		conditions = append(conditions, `(name LIKE ? ESCAPE '\' OR iso = ?)`)
		args = append(args, "%"+escapeLike(text)+"%", strings.ToUpper(text))
	}
	switch {
	case q.Kind != "":
		conditions, args = append(conditions, "kind = ?"), append(args, q.Kind)
	case !q.Former:
		conditions, args = append(conditions, "kind <> ?"), append(args, Former)
	}
	var out Countries
	where := " FROM countries WHERE " + strings.Join(conditions, " AND ")
	if err := s.db.QueryRowContext(ctx, `SELECT COUNT(*)`+where, args...).Scan(&out.Total); err != nil {
		return out, fmt.Errorf("count countries: %w", err)
	}
	if q.After != nil {
		where, args = where+" AND code > ?", append(args, *q.After)
	}
	//nolint:gosec // where is made of constants, the values are arguments
	rows, err := s.db.QueryContext(ctx, `SELECT code, iso, kind, name`+where+` ORDER BY code LIMIT ?`, append(args, limit+1)...)
	if err != nil {
		return out, fmt.Errorf("find countries: %w", err)
	}
	defer rows.Close()
	out.Items = []Country{}
	for rows.Next() {
		var c Country
		if err := rows.Scan(&c.Code, &c.ISO, &c.Kind, &c.Name); err != nil {
			return out, fmt.Errorf("read country: %w", err)
		}
		out.Items = append(out.Items, c)
	}
	if err := rows.Err(); err != nil {
		return out, fmt.Errorf("find countries: %w", err)
	}
	if len(out.Items) > limit {
		out.Items = out.Items[:limit]
		out.Next = strconv.Itoa(out.Items[limit-1].Code)
	}
	return out, nil
}

func bounded(limit int) int {
	if limit == 0 {
		limit = DefaultLimit
	}
	return min(max(limit, 1), MaxLimit)
}

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func escapeLike(s string) string { return likeEscaper.Replace(s) }

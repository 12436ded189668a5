package flows

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

const exportPage = 1000

// Flow is one stored flow, as it is shown.
type Flow struct {
	Reporter    Area    `json:"reporter"`
	Period      int     `json:"period"`
	Flow        string  `json:"flow"`
	Partner     Area    `json:"partner"`
	Cmd         string  `json:"cmd"`
	Class       string  `json:"classification"`
	Partner2    int     `json:"partner2"`
	Customs     string  `json:"customs"`
	Mot         int     `json:"mot"`
	Value       Amount  `json:"value"`
	CIF         *Amount `json:"cif,omitempty"`
	FOB         *Amount `json:"fob,omitempty"`
	Unit        *int    `json:"unit,omitempty"`
	Quantity    *Amount `json:"quantity,omitempty"`
	NetWeight   *Amount `json:"net_weight,omitempty"`
	GrossWeight *Amount `json:"gross_weight,omitempty"`
}

// Page is a part of the flows that were found.
type Page struct {
	Items []Flow `json:"items"`
	Total int    `json:"total"`          // of all pages
	Next  string `json:"next,omitempty"` // give it as after to get what follows; empty on the last page
}

// ErrAfter is a mark of a page that Find did not make.
var ErrAfter = errors.New("after is not a mark of a page")

// Find returns the flows that the filter means, ordered by reporter, period, flow,
// partner, commodity. after is empty or the Next of the page before; limit is 1 to
// [MaxLimit], 0 means [DefaultLimit]. The error is [ErrAfter] for a wrong mark.
func (s *Store) Find(ctx context.Context, f Filter, after string, limit int, areas *Areas) (Page, error) {
	if limit == 0 {
		limit = DefaultLimit
	}
	limit = min(max(limit, 1), MaxLimit)
	var from *Key
	if after != "" {
		k, err := parseMark(after)
		if err != nil {
			return Page{}, err
		}
		from = &k
	}
	// In one transaction, so that the total and the page belong together.
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return Page{}, fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // it has only read
	all, err := findSeries(ctx, tx, f)
	if err != nil {
		return Page{}, err
	}
	page := Page{Items: []Flow{}}
	if page.Total, err = count(ctx, tx, f, all); err != nil {
		return Page{}, err
	}
	// One more than asked for tells whether there is a next page.
	var found []Record
	for i := range all {
		if len(found) > limit {
			break
		}
		order := 1
		if from != nil {
			order = all[i].compare(from)
		}
		if order < 0 {
			continue
		}
		behind := from
		if order > 0 {
			behind = nil
		}
		if found, err = readSeries(ctx, tx, found, all[i], f, behind, limit+1-len(found)); err != nil {
			return Page{}, err
		}
	}
	if len(found) > limit {
		found = found[:limit]
		page.Next = mark(found[limit-1].Key)
	}
	for i := range found {
		page.Items = append(page.Items, shown(&found[i], areas))
	}
	return page, nil
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// series is what one reporter has in one period and flow.
type series struct {
	reporter, period int
	flow             string
	records          int // of the commodities that were asked for
}

// compare orders a series before or behind that of a key.
func (s *series) compare(k *Key) int {
	return cmp.Or(cmp.Compare(s.reporter, k.Reporter), cmp.Compare(s.period, k.Period), cmp.Compare(s.flow, k.Flow))
}

// findSeries returns the series that have what the filter means, but for the
// partner, in order.
func findSeries(ctx context.Context, q querier, f Filter) ([]series, error) {
	var c conditions
	f.series(&c)
	f.commodity(&c)
	rows, err := q.QueryContext(ctx, `SELECT reporter, period, flow, SUM(records) FROM codes t`+c.where()+
		` GROUP BY reporter, period, flow ORDER BY reporter, period, flow`, c.args...)
	if err != nil {
		return nil, fmt.Errorf("find series: %w", err)
	}
	defer rows.Close()
	var found []series
	for rows.Next() {
		var s series
		if err := rows.Scan(&s.reporter, &s.period, &s.flow, &s.records); err != nil {
			return nil, fmt.Errorf("read series: %w", err)
		}
		found = append(found, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find series: %w", err)
	}
	return found, nil
}

// count returns how many flows the filter means, all of which are in the series.
func count(ctx context.Context, q querier, f Filter, all []series) (int, error) {
	total := 0
	if f.Partner == nil {
		for _, s := range all {
			total += s.records
		}
		return total, nil
	}
	// Series by series, as one statement: in each the partner is found at once.
	var which, what conditions
	f.series(&which)
	f.commodity(&which)
	f.partner(&what)
	f.commodity(&what)
	query := `SELECT COUNT(*) FROM (SELECT DISTINCT reporter, period, flow FROM codes t` + which.where() + `)
		CROSS JOIN flows t USING (reporter, period, flow)` + what.where()
	if err := q.QueryRowContext(ctx, query, append(which.args, what.args...)...).Scan(&total); err != nil {
		return 0, fmt.Errorf("count flows: %w", err)
	}
	return total, nil
}

// readSeries appends up to n flows of one series that the filter means, behind from
// where it is not nil.
func readSeries(ctx context.Context, q querier, to []Record, s series, f Filter, from *Key, n int) ([]Record, error) {
	var c conditions
	c.add("t.reporter = ? AND t.period = ? AND t.flow = ?", s.reporter, s.period, s.flow)
	f.partner(&c)
	f.commodity(&c)
	if from != nil {
		c.add("(t.partner, t.cmd, t.class, t.partner2, t.customs, t.mot) > (?, ?, ?, ?, ?, ?)",
			from.Partner, from.Cmd, from.Class, from.Partner2, from.Customs, from.Mot)
	}
	rows, err := q.QueryContext(ctx, `SELECT partner, cmd, class, partner2, customs, mot, value, cif, fob, unit, qty, net, gross FROM flows t`+
		c.where()+` ORDER BY partner, cmd, class, partner2, customs, mot LIMIT ?`, append(c.args, n)...)
	if err != nil {
		return nil, fmt.Errorf("find flows: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		r := Record{Key: Key{Reporter: s.reporter, Period: s.period, Flow: s.flow}}
		if err := rows.Scan(&r.Partner, &r.Cmd, &r.Class, &r.Partner2, &r.Customs, &r.Mot,
			&r.Value, &r.CIF, &r.FOB, &r.Unit, &r.Quantity, &r.NetWeight, &r.GrossWeight); err != nil {
			return nil, fmt.Errorf("read flow: %w", err)
		}
		to = append(to, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find flows: %w", err)
	}
	return to, nil
}

func shown(r *Record, areas *Areas) Flow {
	f := Flow{
		Reporter: areas.Area(r.Reporter), Period: r.Period, Flow: r.Flow, Partner: areas.Area(r.Partner),
		Cmd: r.Cmd, Class: r.Class, Partner2: r.Partner2, Customs: r.Customs, Mot: r.Mot, Value: r.Value,
		CIF: r.CIF.pointer(), FOB: r.FOB.pointer(), Quantity: r.Quantity.pointer(),
		NetWeight: r.NetWeight.pointer(), GrossWeight: r.GrossWeight.pointer(),
	}
	if r.Unit.Known {
		unit := int(r.Unit.Amount)
		f.Unit = &unit
	}
	return f
}

func (m Measure) pointer() *Amount {
	if !m.Known {
		return nil
	}
	return &m.Amount
}

// A mark is the key of the last flow of a page, as JSON in base64.
func mark(k Key) string {
	// A Key holds nothing that JSON cannot take.
	b, err := json.Marshal(k)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseMark(s string) (Key, error) {
	var k Key
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return k, ErrAfter
	}
	if err := json.Unmarshal(b, &k); err != nil {
		return k, ErrAfter
	}
	return k, nil
}

// exportHeader uses the names that Import knows: what was exported can be imported.
var exportHeader = []string{
	"period", "reporter_code", "reporter_iso", "reporter_desc", "flow_code",
	"partner_code", "partner_iso", "partner_desc", "partner2_code", "classification_code", "cmd_code",
	"customs_code", "mot_code", "qty_unit_code", "qty", "net_wgt", "gross_wgt", "cifvalue", "fobvalue", "primary_value",
}

// Export writes the flows that the filter means as CSV, with a header line, in the
// order of Find. It holds one page of them at a time, and no transaction while the
// reader is slow: a flow that changes meanwhile is seen as it was or as it is.
// Cells that a spreadsheet would take for a formula start with an apostrophe.
// After an error, what was written is not complete; the caller must make that
// visible to the reader.
func (s *Store) Export(ctx context.Context, w io.Writer, f Filter, areas *Areas) error {
	out := csv.NewWriter(w)
	if err := out.Write(exportHeader); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	all, err := findSeries(ctx, s.db, f)
	if err != nil {
		return err
	}
	page := make([]Record, 0, exportPage)
	for _, one := range all {
		for from, more := (*Key)(nil), true; more; {
			if page, err = readSeries(ctx, s.db, page[:0], one, f, from, exportPage); err != nil {
				return err
			}
			for i := range page {
				if err := out.Write(exportRow(&page[i], areas)); err != nil {
					return fmt.Errorf("write flow: %w", err)
				}
			}
			out.Flush()
			if err := out.Error(); err != nil {
				return fmt.Errorf("write flows: %w", err)
			}
			if more = len(page) == exportPage; more {
				last := page[exportPage-1].Key
				from = &last
			}
		}
	}
	out.Flush()
	return out.Error()
}

func exportRow(r *Record, areas *Areas) []string {
	reporter, partner := areas.Area(r.Reporter), areas.Area(r.Partner)
	unit := ""
	if r.Unit.Known {
		unit = strconv.Itoa(int(r.Unit.Amount))
	}
	return []string{
		strconv.Itoa(r.Period), strconv.Itoa(r.Reporter), cell(reporter.ISO), cell(reporter.Name), r.Flow,
		strconv.Itoa(r.Partner), cell(partner.ISO), cell(partner.Name), strconv.Itoa(r.Partner2), r.Class, r.Cmd,
		r.Customs, strconv.Itoa(r.Mot), unit, r.Quantity.text(), r.NetWeight.text(), r.GrossWeight.text(),
		r.CIF.text(), r.FOB.text(), r.Value.String(),
	}
}

func (m Measure) text() string {
	if !m.Known {
		return ""
	}
	return m.Amount.String()
}

// cell makes text safe for spreadsheets.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n|", rune(s[0])) {
		return "'" + s
	}
	return s
}

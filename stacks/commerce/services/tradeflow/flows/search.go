package flows

import (
	"context"
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
	// One more than asked for tells whether there is a next page.
	found, err := s.page(ctx, f, from, limit+1)
	if err != nil {
		return Page{}, err
	}
	page := Page{Items: make([]Flow, 0, min(len(found), limit))}
	for i := range found[:min(len(found), limit)] {
		page.Items = append(page.Items, shown(&found[i], areas))
	}
	if len(found) > limit {
		page.Next = mark(found[limit-1].Key)
	}
	conditions, args := f.where()
	query := `SELECT COUNT(*) FROM flows t`
	if len(conditions) > 0 {
		query += ` WHERE ` + strings.Join(conditions, " AND ")
	}
	if err := s.db.QueryRowContext(ctx, query, args...).Scan(&page.Total); err != nil {
		return Page{}, fmt.Errorf("count flows: %w", err)
	}
	return page, nil
}

// page reads up to n flows behind from.
func (s *Store) page(ctx context.Context, f Filter, from *Key, n int) ([]Record, error) {
	conditions, args := f.where()
	if from != nil {
		conditions = append(conditions, `(t.reporter, t.period, t.flow, t.partner, t.cmd, t.class, t.partner2, t.customs, t.mot)
			> (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
		args = append(args, from.Reporter, from.Period, from.Flow, from.Partner, from.Cmd, from.Class, from.Partner2, from.Customs, from.Mot)
	}
	query := `SELECT reporter, period, flow, partner, cmd, class, partner2, customs, mot,
		value, cif, fob, unit, qty, net, gross FROM flows t`
	if len(conditions) > 0 {
		query += ` WHERE ` + strings.Join(conditions, " AND ")
	}
	//nolint:gosec // the conditions are constants, the values are arguments
	query += ` ORDER BY reporter, period, flow, partner, cmd, class, partner2, customs, mot LIMIT ?`
	rows, err := s.db.QueryContext(ctx, query, append(args, n)...)
	if err != nil {
		return nil, fmt.Errorf("find flows: %w", err)
	}
	defer rows.Close()
	var found []Record
	for rows.Next() {
		var r Record
		if err := rows.Scan(&r.Reporter, &r.Period, &r.Flow, &r.Partner, &r.Cmd, &r.Class, &r.Partner2, &r.Customs, &r.Mot,
			&r.Value, &r.CIF, &r.FOB, &r.Unit, &r.Quantity, &r.NetWeight, &r.GrossWeight); err != nil {
			return nil, fmt.Errorf("read flow: %w", err)
		}
		found = append(found, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find flows: %w", err)
	}
	return found, nil
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
	var from *Key
	for {
		found, err := s.page(ctx, f, from, exportPage)
		if err != nil {
			return err
		}
		for i := range found {
			if err := out.Write(exportRow(&found[i], areas)); err != nil {
				return fmt.Errorf("write flow: %w", err)
			}
		}
		out.Flush()
		if err := out.Error(); err != nil {
			return fmt.Errorf("write flows: %w", err)
		}
		if len(found) < exportPage {
			return nil
		}
		from = &found[len(found)-1].Key
	}
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

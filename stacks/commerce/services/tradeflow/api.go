package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"fairlead/service"
	"fairlead/stacks/commerce/services/tradeflow/flows"
)

// importsAtOnce bounds the imports of one instance: each holds a batch in memory.
const importsAtOnce = 8

// api is what the service answers.
type api struct {
	store     *flows.Store
	model     *model
	importing chan struct{}
}

// query is what a client may ask for. Areas are UN codes or ISO letters.
type query struct {
	Reporter string `json:"reporter"`
	Partner  string `json:"partner"`
	Year     int    `json:"year"`
	HS       string `json:"hs"`
	Flow     string `json:"flow"`

	After string `json:"after"` // of find
	Limit int    `json:"limit"`
	By    string `json:"by"` // of summary
}

// filter checks what the query asks for.
func (q query) filter(areas *flows.Areas) (flows.Filter, error) {
	f := flows.Filter{Year: q.Year, HS: strings.ToUpper(strings.TrimSpace(q.HS)), Flow: strings.ToUpper(strings.TrimSpace(q.Flow))}
	for _, a := range [...]struct {
		name, text string
		to         **int
	}{{"reporter", q.Reporter, &f.Reporter}, {"partner", q.Partner, &f.Partner}} {
		if a.text == "" {
			continue
		}
		code, ok := areas.Find(a.text)
		if !ok {
			return f, badRequest("%s %.20q is neither a UN code nor ISO letters of an area that is known", a.name, a.text)
		}
		*a.to = &code
	}
	switch {
	case f.Year != 0 && (f.Year < 1900 || f.Year > 2199):
		return f, badRequest("year must be 1900 to 2199")
	case f.Flow != "" && f.Flow != "M" && f.Flow != "X" && f.Flow != "RM" && f.Flow != "RX":
		return f, badRequest("flow must be M, X, RM or RX")
	case !validHS(f.HS):
		return f, badRequest("hs must be TOTAL or the first 1 to 10 digits of a commodity")
	}
	return f, nil
}

func validHS(s string) bool {
	return s == "" || s == flows.Total || len(s) <= 10 && strings.Trim(s, "0123456789") == ""
}

func (a *api) find(ctx context.Context, q query) (flows.Page, error) {
	areas, _, err := a.model.names(ctx)
	if err != nil {
		return flows.Page{}, unavailable(err)
	}
	f, err := q.filter(areas)
	if err != nil {
		return flows.Page{}, err
	}
	if q.Limit < 0 || q.Limit > flows.MaxLimit {
		return flows.Page{}, badRequest("limit must be 1 to %d", flows.MaxLimit)
	}
	page, err := a.store.Find(ctx, f, q.After, q.Limit, areas)
	if errors.Is(err, flows.ErrAfter) {
		return page, badRequest("%s", err.Error())
	}
	return page, err
}

func (a *api) summary(ctx context.Context, q query) (flows.Summary, error) {
	areas, chapters, err := a.model.names(ctx)
	if err != nil {
		return flows.Summary{}, unavailable(err)
	}
	f, err := q.filter(areas)
	switch {
	case err != nil:
		return flows.Summary{}, err
	case q.HS != "":
		return flows.Summary{}, badRequest("a summary is of whole flows: leave hs out, or ask for it by chapter")
	case q.Limit < 0:
		return flows.Summary{}, badRequest("limit must not be negative")
	}
	by := flows.By(q.By)
	if q.By == "" {
		by = flows.ByPartner
	}
	out, err := a.store.Summarize(ctx, by, f)
	for _, known := range [...]error{flows.ErrBy, flows.ErrSumTooLarge} {
		if errors.Is(err, known) {
			return out, badRequest("%s", known.Error())
		}
	}
	if err != nil {
		return out, err
	}
	if q.Limit > 0 && q.Limit < len(out.Rows) {
		out.Rows = out.Rows[:q.Limit]
	}
	for i := range out.Rows {
		row := &out.Rows[i]
		switch by {
		case flows.ByPartner, flows.ByReporter:
			code, err := strconv.Atoi(row.Key)
			if err != nil {
				return out, fmt.Errorf("read area %s: %w", row.Key, err)
			}
			area := areas.Area(code)
			row.ISO, row.Name = area.ISO, area.Name
		case flows.ByChapter:
			row.Name = chapters[row.Key]
		case flows.ByYear:
		}
	}
	return out, nil
}

// unavailable is what a client is told while the model service was never reached.
func unavailable(err error) error {
	return service.Errorf(http.StatusServiceUnavailable, "the names of areas cannot be had at the moment: try again: %w", err)
}

// importReply is the reply to every import that was begun. When it broke off, it is
// a problem (RFC 9457) with the report of what is stored all the same.
type importReply struct {
	Type   string `json:"type,omitempty"`
	Title  string `json:"title,omitempty"`
	Status int    `json:"status,omitempty"`
	Detail string `json:"detail,omitempty"`
	flows.Report
}

func (a *api) importFlows(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	areas, _, err := a.model.names(ctx)
	if err != nil {
		return unavailable(err)
	}
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity", "gzip", "x-gzip": // gzip is recognised by its first bytes
	default:
		return service.Errorf(http.StatusUnsupportedMediaType, "content encoding %.20q is not gzip", encoding)
	}
	select {
	case a.importing <- struct{}{}:
		defer func() { <-a.importing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	report, err := a.store.Import(ctx, r.Body, flows.FormatOf(r.Header.Get("Content-Type")), areas)
	reply := importReply{Report: report}
	if err != nil {
		reply.Status, reply.Detail = failure(err)
		if reply.Status == http.StatusInternalServerError {
			return err
		}
		reply.Type, reply.Title = "about:blank", http.StatusText(reply.Status)
		if report.Batches == 0 {
			reply.Detail += "; nothing was stored"
		} else {
			reply.Detail += "; what came before is stored, except the last records: correct it and send all of it again"
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(reply.Status)
	} else {
		w.Header().Set("Content-Type", "application/json")
	}
	if err := json.NewEncoder(w).Encode(reply); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// failure returns the status of an import that broke off, and why in public words.
func failure(err error) (int, string) {
	var large *http.MaxBytesError
	var format *flows.FormatError
	var read *flows.ReadError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("the upload is larger than %d bytes", large.Limit)
	case errors.As(err, &format):
		return http.StatusUnprocessableEntity, format.Problem
	case errors.As(err, &read):
		return http.StatusBadRequest, "the upload broke off"
	case errors.Is(err, flows.ErrBusy):
		return http.StatusServiceUnavailable, "the database is busy"
	default:
		return http.StatusInternalServerError, ""
	}
}

func (a *api) export(w http.ResponseWriter, r *http.Request) error {
	areas, _, err := a.model.names(r.Context())
	if err != nil {
		return unavailable(err)
	}
	values := r.URL.Query()
	q := query{
		Reporter: values.Get("reporter"), Partner: values.Get("partner"),
		HS: values.Get("hs"), Flow: values.Get("flow"),
	}
	if year := values.Get("year"); year != "" {
		if q.Year, err = strconv.Atoi(year); err != nil {
			return badRequest("year must be a number")
		}
	}
	f, err := q.filter(areas)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set("Content-Disposition", `attachment; filename="flows.csv"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// After the first byte an error cuts the connection: the client sees a transfer
	// that broke, not a file that is too short.
	return a.store.Export(r.Context(), w, f, areas)
}

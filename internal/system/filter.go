package system

import (
	"net/netip"
	"strconv"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	rateSchema = schema{what: "a rate", keys: []string{"requests", "per", "burst", "by"}}
	corsSchema = schema{what: "cors", keys: []string{"origins", "methods", "headers", "expose", "credentials", "max_age"}}
)

// readFilters reads what decides whether a request is let in, from the fields of the
// gateway or of a route.
func (r *reader) readFilters(f map[string]*document.Node) Filters {
	out := Filters{Deny: r.prefixes(f["deny"])}
	if n := f["allow"]; n != nil {
		out.Allow = r.prefixes(n)
		if n.Kind == document.List && len(n.Items) == 0 {
			// An empty list would open a door that looks closed.
			r.rec.add(n.At, n.Path, emptyValue, "name who is let in, or remove the key to let everybody in")
		}
	}
	if n := f["rate"]; n != nil {
		out.RatesSet = true
		out.Rates = r.readRates(n)
	}
	if n := f["cors"]; n != nil {
		out.CORS = r.readCORS(n)
	}
	if n := f["compress"]; n != nil {
		compress := r.bool(n)
		out.Compress = &compress
	}
	return out
}

func (r *reader) readRates(n *document.Node) []Rate {
	items := []*document.Node{n}
	if n.Kind == document.List {
		items = n.Items
	}
	const most = 16
	if len(items) > most {
		r.rec.add(n.At, n.Path, tooMany, strconv.Itoa(most), len(items), "")
		return nil
	}
	var out []Rate
	for _, item := range items {
		f := r.fields(item, rateSchema)
		if item.Kind != document.Mapping {
			continue
		}
		if f["requests"] == nil {
			r.missing(item, rateSchema, "requests", "write how many requests are let in, as in {requests: 50, per: 1s}")
		}
		rate := Rate{
			Requests: r.int(f["requests"], 1, 1, 1_000_000, ""),
			Per:      r.duration(f["per"], time.Second, time.Millisecond, 24*time.Hour),
			By:       RateBy(r.oneOf(f["by"], string(ByClient), string(ByClient), string(ByToken), string(ByRoute))),
		}
		rate.Burst = r.int(f["burst"], rate.Requests, 1, 1_000_000, "")
		out = append(out, rate)
	}
	return out
}

func (r *reader) readCORS(n *document.Node) *CORS {
	f := r.fields(n, corsSchema)
	out := &CORS{Methods: []string{"GET", "HEAD", "POST"}, Credentials: r.bool(f["credentials"])}
	if n.Kind != document.Mapping {
		return out
	}
	if f["origins"] == nil {
		r.missing(n, corsSchema, "origins", "name the origins that browsers may ask from, as in [https://app.example.com]")
	}
	out.Origins = r.origins(f["origins"], out.Credentials, "credentials")
	if f["methods"] != nil {
		out.Methods = nil
		for _, item := range r.texts(f["methods"], false) {
			out.Methods = append(out.Methods, r.oneOf(item, "", notation.Methods...))
		}
	}
	out.Headers = r.corsHeaders(f["headers"])
	out.Expose = r.corsHeaders(f["expose"])
	out.MaxAge = r.seconds(f["max_age"], 0)
	return out
}

// origins reads a list of origins; asUser says that their pages ask as the user, by
// what, so that "*" is refused.
func (r *reader) origins(n *document.Node, asUser bool, what string) []string {
	var out []string
	for _, item := range r.texts(n, true) {
		origin, advice := notation.ParseOrigin(item.Text)
		if advice != "" {
			r.rec.add(item.At, item.Path, badOrigin, wording.Quote(item.Text), advice)
			continue
		}
		if origin == "*" && asUser {
			r.rec.add(item.At, item.Path, anyOrigin, what)
		}
		out = append(out, origin)
	}
	return out
}

// corsHeaders reads names of headers that are only spoken of.
func (r *reader) corsHeaders(n *document.Node) []string {
	var out []string
	for _, item := range r.texts(n, false) {
		if !notation.IsToken(item.Text) {
			r.rec.add(item.At, item.Path, badHeader, wording.Quote(item.Text))
			continue
		}
		out = append(out, item.Text)
	}
	return out
}

// prefixes reads a list of networks and addresses; an address is a network of one.
func (r *reader) prefixes(n *document.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, item := range r.texts(n, true) {
		p, advice := notation.ParsePrefix(item.Text)
		if advice != "" {
			r.rec.add(item.At, item.Path, badNetwork, wording.Quote(item.Text), advice)
			continue
		}
		out = append(out, p)
	}
	return out
}

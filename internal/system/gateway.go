package system

import (
	"strings"
	"time"
	"unicode/utf8"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	gatewaySchema = schema{
		what: "gateway",
		keys: []string{
			"listen", "tls", "trusted_proxies", "limits", "allow", "deny", "rate", "cors", "compress", "headers",
			"maintenance", "auth",
		},
	}
	listenerSchema    = schema{what: "a listener", keys: []string{"address", "tls", "redirect", "http2", "http3", "proxy_protocol"}}
	limitsSchema      = schema{what: "limits", keys: []string{"body", "header", "connections", "min_rate"}}
	maintenanceSchema = schema{what: "maintenance", keys: []string{"text", "allow"}}
)

const (
	defaultBody   = 10 << 20
	defaultHeader = 32 << 10
	mostBody      = 64 << 30
	mostListeners = 64
)

func (r *reader) readGateway(n *document.Node) {
	g := r.fields(n, gatewaySchema)
	out := &r.sys.Gateway
	if tls := g["tls"]; tls != nil {
		out.TLS = r.readTLS(tls)
	}
	out.Listeners = r.readListeners(g["listen"], g["tls"])
	out.TrustedProxies = r.prefixes(g["trusted_proxies"])
	limits := r.fields(g["limits"], limitsSchema)
	out.Limits = Limits{
		Body:        r.size(limits["body"], defaultBody, 1, mostBody),
		Header:      r.size(limits["header"], defaultHeader, 1<<10, 1<<20),
		Connections: r.int(limits["connections"], 1000, 1, 1_000_000, ""),
		MinRate:     r.minRate(limits["min_rate"], 100),
	}
	out.Filters = r.readFilters(g)
	out.Headers = r.readHeaderRules(g["headers"])
	out.Maintenance = r.readMaintenance(g["maintenance"])
	if auth := g["auth"]; auth != nil {
		out.Auth = r.readAuth(auth)
	}
}

func (r *reader) minRate(n *document.Node, def int64) int64 { return r.size(n, def, 1, 1<<30) }

// readListeners reads one address, or a list of addresses and maps. tls is the
// section of that name, nil if there is none.
func (r *reader) readListeners(n, tls *document.Node) []Listener {
	if n == nil {
		return []Listener{{Address: "127.0.0.1:8080", TLS: tls != nil, HTTP2: tls != nil}}
	}
	items := []*document.Node{n}
	if n.Kind == document.List {
		items = n.Items
	}
	if len(items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, "name an address, or remove the key")
	}
	if len(items) > mostListeners {
		r.rec.add(n.At, n.Path, tooMany, "64", len(items), "")
		return nil
	}
	var out []Listener
	var at []document.Place
	encrypted := false
	var redirect *document.Node
	for _, item := range items {
		l, ok := r.readListener(item, tls != nil)
		encrypted = encrypted || l.TLS
		if l.Redirect && redirect == nil {
			redirect = item
		}
		if !ok {
			continue
		}
		for i := range out {
			if notation.SameAddress(out[i].Address, l.Address) {
				r.rec.add(item.At, item.Path, sameListener, l.Address, at[i])
				break
			}
		}
		out, at = append(out, l), append(at, item.At)
	}
	if redirect != nil && !encrypted && !r.meant["tls"] {
		r.rec.add(redirect.At, redirect.Path, redirectNowhere)
	} else if tls != nil && !encrypted && len(out) == len(items) {
		r.rec.add(tls.KeyAt, tls.Path, misplaced, "where no listener is encrypted", "remove it, or take tls: false from a listener")
	}
	return out
}

// readListener reads one listener; tls says that there is a section of that name.
func (r *reader) readListener(n *document.Node, tls bool) (l Listener, ok bool) {
	if n.Scalar() {
		l.TLS, l.HTTP2 = tls, tls
		_, ok = r.address(n, &l.Address)
		return l, ok
	}
	if n.Kind != document.Mapping {
		r.wrong(n, "an address or a map of "+wording.Enumerate(listenerSchema.keys, "and"), "")
		return l, false
	}
	f := r.fields(n, listenerSchema)
	if f["address"] == nil {
		r.missing(n, listenerSchema, "address", `write it as in address: ":443"`)
	} else {
		_, ok = r.address(f["address"], &l.Address)
	}
	l.Redirect = r.bool(f["redirect"])
	l.TLS = tls && !l.Redirect
	if n := f["tls"]; n != nil {
		switch want := r.bool(n); {
		case want && !tls && !r.meant["tls"]:
			r.rec.add(n.KeyAt, n.Path, withoutTLS, "add gateway.tls")
		case want && l.Redirect:
			r.rec.add(n.KeyAt, n.Path, misplaced, "where everything is redirected", "remove one of the two")
		default:
			l.TLS = l.TLS && want
		}
	}
	l.HTTP2 = l.TLS
	for key, to := range map[string]*bool{"http2": &l.HTTP2, "http3": &l.HTTP3} {
		if n := f[key]; n != nil {
			*to = r.bool(n)
			if *to && !l.TLS && !r.meant["tls"] {
				r.rec.add(n.KeyAt, n.Path, withoutTLS, "browsers speak it over TLS only: remove it here")
			}
		}
	}
	if n := f["proxy_protocol"]; n != nil {
		l.ProxyProtocol = r.prefixes(n)
		if n.Kind == document.List && len(n.Items) == 0 {
			r.rec.add(n.At, n.Path, emptyValue, "name the networks of the proxies, or remove the key")
		}
	}
	return l, ok
}

// readMaintenance reads true, a text, or a map of both text and who is let through.
func (r *reader) readMaintenance(n *document.Node) *Maintenance {
	out := &Maintenance{Text: "down for maintenance"}
	switch {
	case n == nil:
		return nil
	case n.Kind == document.Boolean:
		if n.Text == "false" {
			return nil
		}
	case n.Scalar():
		r.readPublicText(n, &out.Text)
	case n.Kind == document.Mapping:
		f := r.fields(n, maintenanceSchema)
		if f["text"] != nil {
			r.readPublicText(f["text"], &out.Text)
		}
		out.Allow = r.prefixes(f["allow"])
	default:
		r.wrong(n, "true, a text, or a map of text and allow", "")
	}
	return out
}

// readPublicText reads a text that clients are shown.
func (r *reader) readPublicText(n *document.Node, out *string) {
	const most = 1000
	s := r.notEmpty(n, "write what clients are told, or remove the key")
	if utf8.RuneCountInString(s) > most || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\n' || c == 0x7f }) {
		r.rec.add(n.At, n.Path, badText, most)
		return
	}
	*out = s
}

// seconds reads a duration of whole seconds, as headers hold them, up to ten years.
func (r *reader) seconds(n *document.Node, def time.Duration) time.Duration {
	d := r.duration(n, def, 0, 3650*24*time.Hour)
	if d%time.Second != 0 {
		r.rec.add(n.At, n.Path, outOfRange, "whole seconds", n.Text, "")
		return def
	}
	return d
}

// count reads a whole number from 0 to a million.
func (r *reader) count(n *document.Node, def int) int { return r.int(n, def, 0, 1_000_000, "") }

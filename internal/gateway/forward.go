package gateway

import (
	"cmp"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/gateway/recent"
	"fairlead/internal/gateway/token"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

const (
	forwardTime  = 5 * time.Second // for the service to answer, where the file says nothing
	forwardBody  = 64 << 10        // largest refusal that is passed on
	forwardUsers = 4096            // users per generation, two generations are kept
)

// forwarder asks a service about requests, as nginx's auth_request does. The service
// gets a GET request with the client's headers, without the body, and in
// X-Original-Method, -Uri and -Host what the client asked for.
type forwarder struct {
	def   system.Forward
	route *route // to the service
	uri   *url.URL
	// copied are the headers of the service's answer that go on to the route's.
	copied []string
	// users are known by what was said of them, so that the same answer is the same
	// *token.User and its identity need not be signed anew.
	users *recent.Map[string, *token.User]
}

func newForwarder(def *system.Forward, pools map[string]*pool) (*forwarder, error) {
	f := &forwarder{def: *def, users: recent.New[string, *token.User](forwardUsers)}
	var err error
	if f.uri, err = url.ParseRequestURI(def.Path); err != nil || f.uri.Host != "" {
		return nil, fmt.Errorf("gateway.auth.forward: the path %q is no path", def.Path)
	}
	f.def.Timeout = cmp.Or(def.Timeout, forwardTime)
	f.def.SubjectHeader = textproto.CanonicalMIMEHeaderKey(def.SubjectHeader)
	f.def.RolesHeader = textproto.CanonicalMIMEHeaderKey(def.RolesHeader)
	for _, name := range def.Headers {
		// Framing is nobody's to copy, and our own names are the gateway's.
		if slices.ContainsFunc(noCopies, func(s string) bool { return hop.Same(name, s) }) || wire.ForeignHeader(name) {
			return nil, fmt.Errorf("gateway.auth.forward: the header %s cannot be passed on", name)
		}
		f.copied = append(f.copied, textproto.CanonicalMIMEHeaderKey(name))
	}
	f.route = &route{
		def:  &system.Route{Key: "gateway.auth.forward", Targets: []system.Target{{Service: def.Service, Weight: 1}}},
		pool: pools[def.Service], timeout: f.def.Timeout,
	}
	if f.route.pool == nil {
		return nil, fmt.Errorf("gateway.auth.forward: there is no service %q", def.Service)
	}
	return f, nil
}

var noCopies = []string{
	"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
}

// inside returns the headers that no client may send.
func (f *forwarder) inside() []string {
	var all []string
	for _, name := range append([]string{f.def.SubjectHeader, f.def.RolesHeader}, f.copied...) {
		if name != "" {
			all = append(all, hop.Plain(name))
		}
	}
	return all
}

// ask asks the service about r. If it lets r in, ask reports true and returns the
// user, nil if the service names none; if not, it answers.
func (f *forwarder) ask(w http.ResponseWriter, r *http.Request, x *exchange) (*token.User, bool) {
	rec := &kept{header: http.Header{}}
	failed, whole := f.send(rec, r, x)
	status := rec.status
	switch {
	case x.clientLeft(r):
		x.gone(r)
	case failed == "" && whole && status >= 200 && status < 300:
		for _, name := range f.copied {
			for _, v := range rec.header[name] {
				x.told = append(x.told, hop.Field{Name: name, Value: v})
			}
		}
		return f.user(rec.header), true
	case failed == "" && whole && (status == http.StatusUnauthorized || status == http.StatusForbidden):
		f.passOn(w, r, x, rec)
		return nil, false
	case failed == "":
		failed, status = "it answered "+strconv.Itoa(rec.status), http.StatusBadGateway
	case status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout:
		status = http.StatusBadGateway
	}
	x.cause = f.def.Service + ": " + failed
	x.refuse(w, r, refusedForward, status, "it cannot be found out at present whether this is open to you")
	return nil, false
}

// send makes the request. It returns what failed at the door, "" if the service
// answered, and whether the answer came whole.
func (f *forwarder) send(rec *kept, r *http.Request, x *exchange) (failed string, whole bool) {
	now := time.Now()
	sub := *x
	sub.route, sub.pool, sub.user, sub.told = f.route, f.route.pool, nil, nil
	sub.wish, sub.endpoint, sub.placed = wish{}, nil, false
	sub.instance, sub.sent, sub.cause, sub.halted = "", 0, "", false
	sub.start, sub.deadline = now, now.Add(f.def.Timeout)
	if x.deadline.Before(sub.deadline) {
		sub.deadline = x.deadline
	}
	sub.answer = answer{ResponseWriter: rec, control: *http.NewResponseController(rec)}
	sub.told = []hop.Field{
		{Name: "X-Original-Method", Value: r.Method}, {Name: "X-Original-Uri", Value: originalURI(r)}, {Name: "X-Original-Host", Value: r.Host},
	}
	q := (&http.Request{
		Method: http.MethodGet, URL: f.uri, Host: r.Host, RemoteAddr: r.RemoteAddr, RequestURI: f.def.Path, TLS: r.TLS,
		Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor, Header: bodiless(r.Header), Body: http.NoBody,
	}).WithContext(r.Context())
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler { //nolint:errorlint // a panic's value is compared as net/http does
				panic(p)
			}
			x.left = x.left || sub.left
			failed, whole = cmp.Or(sub.cause, "it broke off its answer"), false
		}
	}()
	sub.proxy(&sub.answer, q)
	x.left = x.left || sub.left
	return sub.cause, !rec.cut
}

// originalURI is what the client asked for, as services see it.
func originalURI(r *http.Request) string {
	if r.URL.RawQuery == "" && !r.URL.ForceQuery {
		return r.URL.EscapedPath()
	}
	return r.URL.EscapedPath() + "?" + r.URL.RawQuery
}

// bodiless returns a client's headers without those that describe a body, make a
// request conditional or partial, or change how it is answered.
func bodiless(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if hop.HasPrefix(name, "content-") || hop.HasPrefix(name, "if-") ||
			slices.ContainsFunc(ofBodies, func(s string) bool { return hop.Same(name, s) }) {
			continue
		}
		out[name] = values
	}
	return out
}

var ofBodies = []string{"range", "expect", "te", "trailer", "upgrade", "accept-encoding"}

// passOn gives the client the service's refusal.
func (f *forwarder) passOn(w http.ResponseWriter, r *http.Request, x *exchange, rec *kept) {
	why := refusedLogin
	if rec.status == http.StatusForbidden {
		why = refusedRole
	}
	x.g.refused.add(why)
	x.cause = why.String() + ": " + f.def.Service + " answered " + strconv.Itoa(rec.status)
	h := w.Header()
	for _, name := range []string{"Content-Type", "Content-Language", "Location", "Www-Authenticate", "Set-Cookie"} {
		if values := rec.header[name]; values != nil {
			h[name] = values
		}
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(rec.body)))
	x.leaveBody(w, r)
	w.WriteHeader(rec.status)
	_, _ = w.Write(rec.body) // the client may be gone
}

// user returns who the service says that it is, nil if it does not.
func (f *forwarder) user(h http.Header) *token.User {
	subject := h.Get(f.def.SubjectHeader)
	var roles []string
	for _, line := range h[f.def.RolesHeader] {
		roles = append(roles, strings.FieldsFunc(line, func(c rune) bool { return c == ',' || c == ' ' })...)
	}
	if subject == "" && roles == nil {
		return nil
	}
	name := subject + "\x00" + strings.Join(roles, ",")
	if u, ok := f.users.Find(name); ok {
		return u
	}
	u := &token.User{Subject: subject, Roles: roles}
	f.users.Store(name, u)
	return u
}

// kept is an answer of bounded size.
type kept struct {
	header http.Header
	status int
	body   []byte
	cut    bool // the body was larger
}

func (p *kept) Header() http.Header { return p.header }

func (p *kept) WriteHeader(status int) {
	if status >= http.StatusOK && p.status == 0 {
		p.status = status
	}
}

func (p *kept) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	room := min(len(b), forwardBody-len(p.body))
	p.cut = p.cut || room < len(b)
	p.body = append(p.body, b[:room]...)
	return len(b), nil
}

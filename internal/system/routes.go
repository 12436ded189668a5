package system

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

var routeSchema = schema{
	what: "a route",
	keys: []string{"service", "request", "files", "role", "timeout", "limits", "retry", "data", "errors"},
	unbuilt: map[string]string{
		"allow": forNow, "strip_prefix": "let the service serve the whole path for now", "publish": forNow,
		"subscribe": forNow, "dedupe": forNow, "rate": forNow,
	},
}

const maxRoutes = 5000

func (r *reader) readRoutes(n *node) {
	entries := r.entries(n, "routes, each METHOD HOST/path with its target")
	if len(entries) > maxRoutes {
		r.rec.add(n.keyAt, n.path, tooMany, strconv.Itoa(maxRoutes), len(entries), "route a whole folder of paths to a service with /path/")
		return
	}
	for _, m := range entries {
		p, bad := parsePattern(m.key)
		if bad != nil {
			r.rec.add(m.keyAt, m.path, badRoute, bad.problem, bad.advice)
		}
		f := r.fields(m, routeSchema)
		if m.kind != mapping {
			continue
		}
		out := routed{
			key: m, pattern: p, roles: f["role"], service: f["service"], request: f["request"], data: f["data"],
			route: Route{Key: m.key, Method: p.method, Host: p.host, Path: p.path},
		}
		if !r.exactlyOne(m, "service, request and files", f, "service", "request", "files") {
			out.service, out.request = nil, nil
		}
		r.readRoute(f, &out)
		if bad == nil {
			r.routes = append(r.routes, out)
		}
	}
}

func (r *reader) readRoute(f map[string]*node, out *routed) {
	route := &out.route
	if n := f["files"]; n != nil {
		route.Files = &Files{Dir: r.file(n, true), Precompressed: true}
	}
	if out.service != nil {
		name, _ := r.text(out.service)
		route.Targets = []Target{{Service: name, Weight: 1}}
	}
	for _, item := range r.texts(f["role"], true) {
		if !wordOf(item.text, "._-:") {
			r.rec.add(item.at, item.path, badRole, quote(item.text))
			continue
		}
		route.Roles = append(route.Roles, item.text)
	}
	if n := f["role"]; n != nil && n.kind == list && len(n.items) == 0 {
		// An empty list would open a door that looks closed.
		r.rec.add(n.at, n.path, emptyValue, "name a role, or remove the key to let everybody in")
	}
	route.Timeout = r.duration(f["timeout"], 30*time.Second, time.Millisecond, 24*time.Hour)
	limits := r.fields(f["limits"], limitsSchema)
	out.limit = limits["body"]
	route.Limits.Body = r.size(limits["body"], 0, 1, mostBody)
	if n := limits["header"]; n != nil {
		r.rec.add(n.keyAt, n.path, misplaced, "in a route", "the route is known only after the header was read: set gateway.limits.header")
	}
	route.Retry = r.bool(f["retry"])
	if n := f["retry"]; n != nil && f["files"] != nil {
		r.rec.add(n.keyAt, n.path, misplaced, "in a route to files", "nothing is sent again there")
	}
	for _, key := range []string{"data", "errors"} {
		if n := f[key]; n != nil && f["request"] == nil {
			r.rec.add(n.keyAt, n.path, misplaced, "in a route without request", "it is about a request over the bus")
		}
	}
	if out.request == nil {
		return
	}
	route.Request = &Request{Format: Raw}
	if n := f["data"]; n != nil {
		route.Request.Data = plain(n)
		r.references(n, out.pattern)
	}
	for _, m := range r.entries(f["errors"], "statuses by message, status or default") {
		if m.kind != integer {
			r.wrong(m, "a status", "")
			continue
		}
		status, err := strconv.Atoi(m.text)
		if err != nil || status < 400 || status > 599 {
			r.rec.add(m.at, m.path, badStatus, m.text)
			continue
		}
		if route.Request.Errors == nil {
			route.Request.Errors = map[string]int{}
		}
		route.Request.Errors[m.key] = status
	}
	r.readSubject(out)
}

// readSubject reads what request names: a subject, or a NestJS pattern.
func (r *reader) readSubject(out *routed) {
	n := out.request
	req := out.route.Request
	switch {
	case n.kind == mapping:
		s, err := nestPattern(plainMap(n))
		if err == nil {
			err = checkSubject(s, false)
		}
		if err != nil {
			r.rec.add(n.at, n.path, badPattern, err)
			return
		}
		req.Subject = s
	case !n.scalar():
		r.wrong(n, "a subject or a NestJS pattern", "")
	case strings.HasPrefix(n.text, `{"`):
		s, err := nestText(n.text)
		if err == nil {
			err = checkSubject(s, false)
		}
		if err != nil {
			r.rec.add(n.at, n.path, badPattern, err)
			return
		}
		req.Subject = s
	default:
		if err := checkSubject(n.text, false); err != nil {
			r.rec.add(n.at, n.path, badSubject, err)
			return
		}
		for token := range strings.SplitSeq(n.text, ".") {
			if strings.ContainsAny(strings.TrimSuffix(strings.TrimPrefix(token, "{"), "}"), "{}") ||
				strings.HasPrefix(token, "{") != strings.HasSuffix(token, "}") {
				r.rec.add(n.at, n.path, badSubject, "a path value must be a whole token")
				return
			}
		}
		pattern, used := template(n.text)
		if pattern[0] == '*' {
			r.rec.add(n.at, n.path, badSubject, "the first token must be written out")
			return
		}
		if pattern[0] == '$' || pattern[0] == '_' {
			r.rec.add(n.at, n.path, closedSubject, pattern[:1], "name a subject that a service answers")
			return
		}
		known := out.pattern.values()
		for _, name := range used {
			if !slices.Contains(known, name) {
				r.rec.add(n.at, n.path, unknownValue, name, suggest(name, known, "add {"+name+"} to the path"))
				return
			}
		}
		req.Subject = n.text
	}
}

// references checks the $values in data.
func (r *reader) references(n *node, p pattern) {
	for _, item := range n.items {
		r.references(item, p)
	}
	if n.kind != text || !strings.HasPrefix(n.text, "$") || strings.HasPrefix(n.text, "$$") {
		return
	}
	of, name, named := strings.Cut(n.text[1:], ".")
	known := false
	switch of {
	case "body":
		known = !named || !slices.Contains(strings.Split(name, "."), "")
	case "query", "path":
		known = !named || name != ""
	case "user":
		known = name == "sub" || name == "roles"
	}
	if !known {
		r.rec.add(n.at, n.path, badReference, quote(n.text))
	} else if of == "path" && named && !slices.Contains(p.values(), name) {
		r.rec.add(n.at, n.path, unknownValue, name, suggest(name, p.values(), "add {"+name+"} to the path"))
	}
}

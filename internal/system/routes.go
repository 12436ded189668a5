package system

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	routeSchema = schema{
		what: "a route",
		keys: []string{
			"service", "request", "publish", "subscribe", "nats", "files", "redirect", "monitor", "strip_prefix", "rewrite", "sticky", "headers",
			"role", "auth", "timeout", "limits", "retry", "data", "errors",
			"allow", "deny", "rate", "cors", "compress", "maintenance",
			"dedupe", "signature", "carry", "buffer", "heartbeat", "origins",
		},
	}
	filesSchema    = schema{what: "files", keys: []string{"dir", "fallback", "precompressed", "max_age"}}
	redirectSchema = schema{what: "redirect", keys: []string{"to", "status"}}
)

// targets are the keys that say where a route leads.
var targets = []string{"service", "request", "publish", "subscribe", "nats", "files", "redirect", "monitor"}

var oneTarget = wording.Enumerate(targets, "and")

const (
	maxRoutes  = 5000
	maxTargets = 16
)

func (r *reader) readRoutes(n *document.Node) {
	entries := r.entries(n, "routes, each METHOD HOST/path with its target")
	if len(entries) > maxRoutes {
		r.rec.add(n.KeyAt, n.Path, tooMany, strconv.Itoa(maxRoutes), len(entries), "route a whole folder of paths to a service with /path/")
		return
	}
	for _, m := range entries {
		p, bad := notation.ParsePattern(m.Key)
		if bad != nil {
			r.rec.add(m.KeyAt, m.Path, badRoute, bad.Problem, bad.Advice)
		}
		f := r.fields(m, routeSchema)
		if m.Kind != document.Mapping {
			continue
		}
		out := &routed{
			key: m, pattern: p, fields: f,
			route: Route{Key: m.Key, Method: p.Method, Host: p.Host, Path: p.Path},
		}
		if r.exactlyOne(m, oneTarget, f, targets...) {
			for _, key := range targets {
				if f[key] != nil {
					out.leads = key
				}
			}
			r.misplacedIn(out)
		}
		r.readRoute(f, out)
		if bad == nil {
			r.routes = append(r.routes, out)
		}
	}
}

// only are the keys of a route that mean something with some of the targets alone.
var only = map[string]struct {
	advice  string
	targets []string
}{
	"data":         {"it is about a request over the bus", []string{"request"}},
	"errors":       {"it is about a request over the bus", []string{"request"}},
	"retry":        {"nothing is sent again there", []string{"service", "request"}},
	"strip_prefix": {"it is about a request to a service over HTTP", []string{"service"}},
	"rewrite":      {"it is about a request to a service over HTTP", []string{"service"}},
	"sticky":       {"it is about a request to a service over HTTP", []string{"service"}},
	"dedupe":       {"it is about what is stored in a queue", []string{"publish"}},
	"signature":    {"it is about what is stored in a queue", []string{"publish"}},
	"carry":        {"it is about what is stored in a queue", []string{"publish"}},
	"buffer":       {"it is about a stream of messages", []string{"subscribe"}},
	"heartbeat":    {"it is about a stream of messages", []string{"subscribe"}},
	"origins":      {"it is about WebSockets that fairlead answers itself", []string{"subscribe", "nats"}},
}

// misplacedIn tells which keys have no meaning for what the route leads to.
func (r *reader) misplacedIn(t *routed) {
	for key, n := range t.fields {
		if o, ok := only[key]; ok && !slices.Contains(o.targets, t.leads) {
			r.rec.add(n.KeyAt, n.Path, misplaced, "in a route without "+wording.Enumerate(o.targets, "or"), o.advice)
		}
	}
	if n := t.fields["timeout"]; n != nil && (t.leads == "subscribe" || t.leads == "nats") {
		r.rec.add(n.KeyAt, n.Path, misplaced, "in a route with "+t.leads, "a stream has no end: remove it")
	}
	r.methodOf(t, "publish", "POST", "PUT")
	r.methodOf(t, "subscribe", "GET")
	r.methodOf(t, "nats", "GET")
}

// methodOf tells that what a route leads to is not asked with the route's method.
func (r *reader) methodOf(t *routed, leads string, methods ...string) {
	if t.leads == leads && t.route.Method != "" && !slices.Contains(methods, t.route.Method) {
		n := t.fields[leads]
		r.rec.add(n.KeyAt, n.Path, misplaced, "in a route of "+t.route.Method, "write "+methods[0]+", or no method")
	}
}

func (r *reader) readRoute(f map[string]*document.Node, out *routed) {
	route := &out.route
	switch out.leads {
	case "service":
		r.readTargets(f, out)
	case "files":
		route.Files = r.readFiles(f["files"])
	case "redirect":
		route.Redirect = r.readRedirect(f["redirect"], out.pattern)
	case "monitor":
		r.readMonitor(out)
	}
	route.Headers = r.readHeaderRules(f["headers"])
	route.Roles = r.roles(f["role"])
	if n := f["role"]; n != nil && n.Kind == document.List && len(n.Items) == 0 {
		// An empty list would open a door that looks closed.
		r.rec.add(n.At, n.Path, emptyValue, "name a role, or remove the key to let everybody in")
	}
	for _, item := range r.texts(f["auth"], true) {
		route.Auth = append(route.Auth, AuthMethod(r.oneOf(item, "", authSchema.keys...)))
	}
	if n := f["auth"]; n != nil && n.Kind == document.List && len(n.Items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, "name one of "+wording.Enumerate(authSchema.keys, "and")+", or remove the key")
	}
	route.Timeout = r.duration(f["timeout"], 30*time.Second, time.Millisecond, 24*time.Hour)
	limits := r.fields(f["limits"], limitsSchema)
	route.Limits = Limits{Body: r.size(limits["body"], 0, 1, mostBody), MinRate: r.minRate(limits["min_rate"], 0)}
	if n := limits["header"]; n != nil {
		r.rec.add(n.KeyAt, n.Path, misplaced, "in a route", "the route is known only after the header was read: set gateway.limits.header")
	}
	if n := limits["connections"]; n != nil {
		r.rec.add(n.KeyAt, n.Path, misplaced, "in a route", "a connection may carry requests of many routes: set gateway.limits.connections")
	}
	route.Filters = r.readFilters(f)
	route.Maintenance = r.readMaintenance(f["maintenance"])
	route.Retry = r.bool(f["retry"])
	// What these say depends on who may come, which is read by now.
	switch out.leads {
	case "request":
		r.readRequest(f, out)
	case "publish":
		route.Publish = r.readPublish(f, out)
	case "subscribe":
		route.Subscribe = r.readSubscribe(f, out)
	case "nats":
		route.NATS = r.readNATS(f, out)
	}
}

// readRequest reads what a route over the bus says.
func (r *reader) readRequest(f map[string]*document.Node, out *routed) {
	route := &out.route
	route.Request = &Request{Format: Raw}
	if n := f["data"]; n != nil {
		route.Request.Data = n.Plain()
		r.references(n, out.pattern)
	}
	for _, m := range r.entries(f["errors"], "statuses by message, status or default") {
		if m.Kind != document.Integer {
			r.wrong(m, "a status", "")
			continue
		}
		status, err := strconv.Atoi(m.Text)
		if err != nil || status < 400 || status > 599 {
			r.rec.add(m.At, m.Path, badStatus, m.Text)
			continue
		}
		if route.Request.Errors == nil {
			route.Request.Errors = map[string]int{}
		}
		route.Request.Errors[m.Key] = status
	}
	r.readSubject(out)
}

// readTargets reads the service, or the services with their weights, that a route
// leads to, and what it does to the path.
func (r *reader) readTargets(f map[string]*document.Node, out *routed) {
	route := &out.route
	n := f["service"]
	if n.Kind == document.Mapping {
		route.Targets = r.readShares(n)
	} else if name, ok := r.text(n); ok {
		route.Targets = []Target{{Service: name, Weight: 1}}
	}
	route.Sticky = r.hashKey(f["sticky"], "", "cookie", "client", "path")
	route.StripPrefix = r.bool(f["strip_prefix"])
	rewrite := f["rewrite"]
	if rewrite == nil {
		return
	}
	if route.StripPrefix {
		r.rec.add(rewrite.KeyAt, rewrite.Path, misplaced, "in a route with strip_prefix", "write the whole path that the service sees into rewrite, and remove strip_prefix")
	}
	s, ok := r.text(rewrite)
	if ok && (!strings.HasPrefix(s, "/") || strings.ContainsAny(s, "?#")) {
		r.rec.add(rewrite.At, rewrite.Path, badTemplate, "a path", wording.Quote(s), "begin with /, without ? and #")
	} else if ok && r.template(rewrite, out.pattern) {
		route.Rewrite = s
	}
}

// readShares reads services with their weights.
func (r *reader) readShares(n *document.Node) []Target {
	entries := r.entries(n, "weights by service")
	if len(entries) > maxTargets {
		r.rec.add(n.At, n.Path, tooMany, strconv.Itoa(maxTargets), len(entries), "")
		return nil
	}
	var out []Target
	total := 0
	for _, m := range entries {
		t := Target{Service: m.Key, Weight: r.int(m, 1, 0, 1000, "")}
		total += t.Weight
		out = append(out, t)
	}
	if total == 0 && len(entries) == len(n.Items) {
		r.rec.add(n.At, n.Path, noShare)
	}
	slices.SortFunc(out, func(a, b Target) int { return strings.Compare(a.Service, b.Service) })
	return out
}

// readFiles reads a folder, or a map of it and how it is served.
func (r *reader) readFiles(n *document.Node) *Files {
	out := &Files{Precompressed: true}
	if n.Kind != document.Mapping {
		out.Dir = r.file(n, true)
		return out
	}
	f := r.fields(n, filesSchema)
	if f["dir"] == nil {
		r.missing(n, filesSchema, "dir", "name the folder")
	} else {
		out.Dir = r.file(f["dir"], true)
	}
	if f["precompressed"] != nil {
		out.Precompressed = r.bool(f["precompressed"])
	}
	out.MaxAge = r.seconds(f["max_age"], 0)
	fallback := f["fallback"]
	if s, ok := r.text(fallback); ok && !filepath.IsLocal(s) {
		r.rec.add(fallback.At, fallback.Path, badPath, "is not a file in the folder", "name a file that is served, as in index.html")
	} else if ok {
		out.Fallback = filepath.ToSlash(filepath.Clean(s))
		if info, err := r.stat(filepath.Join(out.Dir, s)); out.Dir != "" && (err != nil || !info.Mode().IsRegular()) {
			r.rec.add(fallback.At, fallback.Path, notFound, wording.Quote(s), "make the file, or correct the name; it starts at dir")
		}
	}
	return out
}

// readRedirect reads where a client is sent, or a map of it and the status.
func (r *reader) readRedirect(n *document.Node, p notation.Pattern) *Redirect {
	out := &Redirect{Status: 308}
	to := n
	if n.Kind == document.Mapping {
		f := r.fields(n, redirectSchema)
		if status := f["status"]; status != nil {
			out.Status, _ = strconv.Atoi(r.oneOf(status, "308", "301", "302", "303", "307", "308"))
		}
		if to = f["to"]; to == nil {
			r.missing(n, redirectSchema, "to", "write the path or URL that the client is sent to")
			return out
		}
	}
	s, ok := r.text(to)
	if !ok {
		return out
	}
	if !notation.IsRedirect(s) {
		r.rec.add(to.At, to.Path, badTemplate, "a path or a URL", wording.Quote(s), "write it as in /new/{id} or https://example.com/; spaces as %20")
	} else if r.template(to, p) {
		out.To = s
	}
	return out
}

// template tells whether the {name}s in a text are values of the path.
func (r *reader) template(n *document.Node, p notation.Pattern) bool {
	known := p.Values()
	for rest := n.Text; ; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			return true
		}
		name, after, closed := strings.Cut(rest[i+1:], "}")
		if rest[i] == '}' || !closed || !notation.IsVariable(name) {
			r.rec.add(n.At, n.Path, badTemplate, "a text in which { and } enclose the name of a path value", wording.Quote(n.Text), "write {name}")
			return false
		}
		if !slices.Contains(known, name) {
			r.rec.add(n.At, n.Path, unknownValue, name, wording.Suggest(name, known, "add {"+name+"} to the path"))
			return false
		}
		rest = after
	}
}

func (r *reader) readMonitor(out *routed) {
	n := out.fields["monitor"]
	out.route.Monitor = Monitor(r.oneOf(n, "", string(MonitorBus), string(MonitorMetrics), string(MonitorHealth),
		string(MonitorCatalogue), string(MonitorClient)))
	if out.route.Monitor == MonitorBus && !strings.HasSuffix(out.route.Path, "/") {
		r.rec.add(n.At, n.Path, misplaced, "on a route that does not end with /", "its pages lie below the route: write "+out.route.Path+"/")
	}
}

// readSubject reads what request names: a subject, or a NestJS pattern.
func (r *reader) readSubject(out *routed) {
	n := out.fields["request"]
	req := out.route.Request
	switch {
	case n.Kind == document.Mapping:
		s, err := notation.NestPattern(n.PlainMap())
		if err == nil {
			err = notation.CheckSubject(s, false)
		}
		if err != nil {
			r.rec.add(n.At, n.Path, badPattern, err)
			return
		}
		req.Subject = s
	case !n.Scalar():
		r.wrong(n, "a subject or a NestJS pattern", "")
	case strings.HasPrefix(n.Text, `{"`):
		s, err := notation.NestText(n.Text)
		if err == nil {
			err = notation.CheckSubject(s, false)
		}
		if err != nil {
			r.rec.add(n.At, n.Path, badPattern, err)
			return
		}
		req.Subject = s
	default:
		req.Subject, _ = r.subjectTemplate(n, out.pattern, false, "name a subject that a service answers")
	}
}

// references checks the $values in data.
func (r *reader) references(n *document.Node, p notation.Pattern) {
	for _, item := range n.Items {
		r.references(item, p)
	}
	if n.Kind != document.Text || !strings.HasPrefix(n.Text, "$") || strings.HasPrefix(n.Text, "$$") {
		return
	}
	of, name, named := strings.Cut(n.Text[1:], ".")
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
		r.rec.add(n.At, n.Path, badReference, wording.Quote(n.Text))
	} else if of == "path" && named && !slices.Contains(p.Values(), name) {
		r.rec.add(n.At, n.Path, unknownValue, name, wording.Suggest(name, p.Values(), "add {"+name+"} to the path"))
	}
}

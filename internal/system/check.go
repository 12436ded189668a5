package system

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

// mostOverBus is the payload limit of the bus.
const mostOverBus = 1 << 20

// check looks at what belongs together: routes with each other and with services,
// subjects that are asked with those that are answered, databases with owners.
func (r *reader) check(doc *document.Node) {
	r.checkRoutes()
	slices.SortFunc(r.routes, func(a, b *routed) int { return cmp.Compare(a.key.Key, b.key.Key) })
	if len(r.routes) > 0 {
		r.sys.Routes = make([]*Route, 0, len(r.routes))
	}
	for _, t := range r.routes {
		r.checkTarget(t)
		r.sys.Routes = append(r.sys.Routes, t.kept())
	}
	r.sys.markHTTP()
	r.checkAuth()
	r.checkACME(doc.Member("gateway").Member("tls").Member("acme"))
	if forward := r.sys.Gateway.Auth.Forward; forward != nil {
		if n := doc.Member("gateway").Member("auth").Member("forward").Member("service"); n != nil && n.Scalar() {
			r.reached(forward.Service, n.At, n.Path)
		}
	}
	r.checkAsks(doc)
	r.checkBusUsers(doc.Member("bus").Member("users"))
	r.checkQueues()
	if jwt := r.sys.Gateway.Auth.JWT; jwt != nil {
		if subject, ok := strings.CutPrefix(jwt.JWKS, "bus:"); ok {
			n := doc.Member("gateway").Member("auth").Member("jwt").Member("jwks")
			switch services := r.whoAnswers(subject); len(services) {
			case 0:
				r.refer("services", n.At, n.Path, unanswered, wording.Quote(subject), r.nearestAnswer(subject))
			case 1:
			default: // each of them could sign for everybody
				r.rec.add(n.At, n.Path, answeredTwice, wording.Quote(subject), wording.Enumerate(services, "and"))
			}
		}
	}
	for _, m := range r.databases {
		owner := m.Member("owner")
		if owner != nil && owner.Scalar() && r.services[owner.Text] == nil {
			r.refer("services", owner.At, owner.Path, unknownService, wording.Quote(owner.Text), wording.Suggest(owner.Text, names(r.services), "declare it under services"))
		}
	}
}

// markHTTP marks the services that speak HTTP: a route leads there, or they are asked
// for their health so.
func (s *System) markHTTP() {
	reached := map[string]bool{}
	if forward := s.Gateway.Auth.Forward; forward != nil {
		reached[forward.Service] = true
	}
	for i := range s.Routes {
		for _, t := range s.Routes[i].Targets {
			reached[t.Service] = true
		}
	}
	for i := range s.Services {
		svc := &s.Services[i]
		svc.HTTP = svc.Healthcheck.HTTP != "" || svc.Healthcheck.TCP || reached[svc.Name]
	}
}

// checkRoutes tells which routes conflict. Each route is told about the first that
// it conflicts with.
func (r *reader) checkRoutes() {
	var patterns notation.Patterns
	for _, q := range r.routes {
		first, how := patterns.Add(&q.pattern)
		if how == notation.Apart {
			continue
		}
		c := sameRoute
		if how == notation.Crossed {
			c = conflict
		}
		p := r.routes[first]
		r.rec.add(q.key.KeyAt, q.key.Path, c, wording.Quote(p.key.Key), p.key.KeyAt)
	}
}

// checkAuth tells which routes ask for users that the gateway cannot know: once for
// all whose roles nothing could tell.
func (r *reader) checkAuth() {
	auth := &r.sys.Gateway.Auth
	has := map[AuthMethod]bool{
		AuthJWT: auth.JWT != nil, AuthBasic: auth.Basic != nil, AuthKeys: auth.Keys != nil, AuthForward: auth.Forward != nil,
	}
	meant := r.meant["gateway"] || r.meant["auth"]
	for method := range has {
		meant = meant || r.meant[string(method)]
	}
	if meant {
		return
	}
	var roles []*document.Node
	for _, t := range r.routes {
		if len(t.route.Roles) > 0 && len(t.route.Auth) == 0 && !has[AuthJWT] && !has[AuthBasic] && !has[AuthKeys] {
			roles = append(roles, t.fields["role"])
		}
		for _, method := range t.route.Auth {
			if n := t.fields["auth"].Item(string(method)); method != "" && !has[method] {
				r.rec.add(n.At, n.Path, notConfigured, method)
			}
		}
		if n := t.fields["auth"]; len(t.route.Roles) > 0 && slices.Equal(t.route.Auth, []AuthMethod{AuthForward}) &&
			auth.Forward != nil && auth.Forward.RolesHeader == "" {
			r.rec.add(t.fields["role"].KeyAt, t.fields["role"].Path, roleless, "forward", "add gateway.auth.forward.roles_header, or another method to "+n.Key)
		}
	}
	switch more := len(roles) - 1; {
	case more < 0:
	case more == 0:
		r.rec.add(roles[0].KeyAt, roles[0].Path, roleWithoutAuth, "", "the role")
	case more == 1:
		r.rec.add(roles[0].KeyAt, roles[0].Path, roleWithoutAuth, ", as does 1 more route", "the roles")
	default:
		r.rec.add(roles[0].KeyAt, roles[0].Path, roleWithoutAuth, fmt.Sprintf(", as do %d more routes", more), "the roles")
	}
}

func (r *reader) checkTarget(t *routed) {
	switch n := t.fields[t.leads]; t.leads {
	case "service":
		for i, target := range t.route.Targets {
			if n.Kind == document.Mapping {
				n := n.Items[slices.IndexFunc(n.Items, func(m *document.Node) bool { return m.Key == t.route.Targets[i].Service })]
				r.reached(target.Service, n.KeyAt, n.Path)
				continue
			}
			r.reached(target.Service, n.At, n.Path)
		}
	case "request":
		if t.route.Request.Subject != "" {
			r.checkRequest(t)
		}
	case "publish":
		r.checkPublish(t)
	case "subscribe":
		r.checkSubscribe(t)
	case "monitor":
		guarded := len(t.route.Roles)+len(t.route.Auth) > 0
		switch t.route.Monitor {
		case MonitorBus:
			if !guarded {
				r.rec.add(n.At, n.Path, openMonitor, "it tells who is connected to the bus: add role or auth")
			}
		case MonitorMetrics, MonitorCatalogue:
			if !guarded && len(t.route.Filters.Allow) == 0 {
				r.rec.add(n.At, n.Path, openMonitor, "add role, auth or allow, as in allow: [127.0.0.1]")
			}
		case MonitorHealth, MonitorClient:
		}
	}
}

// reached tells that the gateway would send requests to a service that there is not.
func (r *reader) reached(service string, at document.Place, path string) {
	if service == "" {
		r.rec.add(at, path, emptyValue, "name a service")
		return
	}
	if r.services[service] == nil {
		r.refer("services", at, path, unknownService, wording.Quote(service), wording.Suggest(service, names(r.services), "declare it under services"))
		return
	}
}

func (r *reader) checkRequest(t *routed) {
	req := t.route.Request
	request := t.fields["request"]
	r.checkBodyOverBus(t)
	pattern, _ := notation.SubjectTemplate(req.Subject)
	services := r.whoAnswers(pattern)
	switch len(services) {
	case 0:
		r.refer("services", request.At, request.Path, unanswered, wording.Quote(req.Subject), r.nearestAnswer(req.Subject))
		return
	case 1:
	default:
		r.rec.add(request.At, request.Path, answeredTwice, wording.Quote(req.Subject), wording.Enumerate(services, "and"))
		return
	}
	req.Service = services[0]
	if s, ok := r.sys.Service(req.Service); ok && s.Bus != nil {
		req.Format = s.Bus.Format
	}
	if strings.HasPrefix(req.Subject, `{"`) && req.Format != Nest {
		r.rec.add(request.At, request.Path, patternFormat, req.Service)
	}
}

// checkBodyOverBus tells that a route lets in what the bus does not carry.
func (r *reader) checkBodyOverBus(t *routed) {
	if limit := t.fields["limits"].Member("body"); limit != nil && t.route.Limits.Body > mostOverBus {
		r.rec.add(limit.At, limit.Path, bodyOverBus, limit.Text)
	}
}

// checkAsks tells which subjects are asked that nobody answers: the system is closed.
func (r *reader) checkAsks(doc *document.Node) {
	for _, m := range r.services {
		r.checkAsked(m.Member("bus").Member("asks"))
	}
	if users := doc.Member("bus").Member("users"); users != nil && users.Kind == document.Mapping {
		for _, m := range users.Items {
			r.checkAsked(m.Member("asks"))
		}
	}
}

// checkAsked is checkAsks for one list of subjects.
func (r *reader) checkAsked(asks *document.Node) {
	for _, item := range r.patternsQuietly(asks) {
		if !strings.HasPrefix(item.subject, "$") && len(r.whoAnswers(item.subject)) == 0 {
			r.refer("services", item.node.At, item.node.Path, unanswered, wording.Quote(item.subject), r.nearestAnswer(item.subject))
		}
	}
}

// asked is a valid subject with where it stands.
type asked struct {
	node    *document.Node
	subject string
}

// patternsQuietly returns the valid subjects of a list whose invalid ones have been
// told already.
func (r *reader) patternsQuietly(n *document.Node) []asked {
	if n == nil || n.Kind != document.List {
		return nil
	}
	var out []asked
	for _, item := range n.Items {
		switch {
		case item.Kind == document.Mapping:
			if s, err := notation.NestPattern(item.PlainMap()); err == nil {
				out = append(out, asked{item, s})
			}
		case item.Scalar() && strings.HasPrefix(item.Text, "{"):
			if s, err := notation.NestText(item.Text); err == nil {
				out = append(out, asked{item, s})
			}
		case item.Scalar() && notation.CheckSubject(item.Text, true) == nil && !strings.ContainsRune("*>_", rune(item.Text[0])):
			out = append(out, asked{item, item.Text})
		}
	}
	return out
}

// whoAnswers returns the services that answer a subject matched by the pattern.
func (r *reader) whoAnswers(pattern string) []string {
	var services []string
	for _, a := range r.answers {
		if !slices.Contains(services, a.service) && notation.SubjectsMeet(a.subject, pattern) {
			services = append(services, a.service)
		}
	}
	slices.Sort(services)
	return services
}

// nearestAnswer is the advice for a subject that nobody answers.
func (r *reader) nearestAnswer(subject string) string {
	var subjects []string
	for _, a := range r.answers {
		subjects = append(subjects, a.subject)
	}
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	if best, ok := wording.Nearest(subject, subjects); ok {
		return "did you mean " + wording.Quote(best) + "?"
	}
	if len(subjects) == 0 {
		return "add it to the answers of a service; no service answers anything yet"
	}
	return "add it to the answers of a service; answered are " + wording.Enumerate(subjects, "and")
}

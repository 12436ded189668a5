package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"

	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// Config is everything a snapshot is built from. It must not be changed after it
// was applied.
type Config struct {
	Gateway  system.Gateway
	Routes   []*system.Route  // sorted by key; one that stayed is told by its address
	Services []system.Service // all services, those without a route too
	// Endpoints are the ready instances by service. A service that is missing here
	// keeps the endpoints it has. Those of external services the gateway finds
	// itself.
	Endpoints map[string][]Endpoint
	// Secrets are the values of the secrets that gateway.auth and signatures name.
	Secrets map[string]string
	// Before, when set, is called once the routes are known to be sound. Its error is Apply's,
	// and nothing changes.
	Before func() error
}

// snapshot is what one request sees of the world. It is immutable.
type snapshot struct {
	table  *match.Table // nil until the first Apply
	routes []route      // in the table's order
	rules  rules        // of answers that belong to no route
	limits system.Limits
	hsts   []string // value of Strict-Transport-Security, nil for none
	ready  map[string]*ready

	admission *admission // nil until the first Apply

	door    system.Gateway // what routes were compiled with
	secrets map[string]string

	closed  *system.Maintenance            // of the whole door, as the file says
	decided map[string]*system.Maintenance // see SetMaintenance
}

// find returns the route of a request, nil for none, and the values of its path.
func (s *snapshot) find(method, host, path string, vars match.Values) (*route, match.Values) {
	i, vars := s.table.Find(method, host, path, vars)
	if i < 0 {
		return nil, nil
	}
	return &s.routes[i], vars
}

// disguised reports whether a service that cuts parameters off a path would take it
// for one whose route is guarded, as found is not.
func (s *snapshot) disguised(found *route, r *http.Request, path string) bool {
	plain := match.WithoutParameters(path)
	if plain == path {
		return false
	}
	other, _ := s.find(r.Method, r.Host, plain, nil)
	return other != nil && other != found && (other.filters.required || other.filters.addresses.Some())
}

// Apply builds the next snapshot and swaps it in one go. Nothing changes on an
// error. Endpoints that are no longer there get no further request, and those that
// are open go on. Counters and waiting requests of a service survive.
func (g *Gateway) Apply(c Config) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	doors, err := g.bind(context.Background(), c.Gateway)
	if err != nil {
		return fmt.Errorf("apply listeners: %w", err)
	}
	defer doors.Abort()
	pools := make(map[string]*pool, len(c.Services))
	for i := range c.Services {
		name := c.Services[i].Name
		pools[name] = g.poolFor(name)
	}
	limits := c.Gateway.Limits
	if limits.Body == 0 {
		limits.Body = defaultLimits.Body
	}
	if limits.Header == 0 {
		limits.Header = defaultLimits.Header
	}
	old := g.snap.Load()
	var before []route // as compiled, which those that stayed are again
	if old != nil && reflect.DeepEqual(old.door, c.Gateway) && maps.Equal(old.secrets, c.Secrets) && maps.Equal(g.pools, pools) {
		before = old.routes
	}
	routes := make([]route, len(c.Routes))
	patterns := make([]match.Pattern, len(c.Routes))
	var faults []error
	for i := range c.Routes {
		def := c.Routes[i]
		patterns[i] = match.Pattern{Key: def.Key, Method: def.Method, Host: def.Host, Path: def.Path, ReadOnly: def.Files != nil}
		for len(before) > 0 && before[0].def.Key < def.Key {
			before = before[1:]
		}
		if len(before) > 0 && before[0].def == def && before[0].files == nil { // a folder may be another one by now
			routes[i] = before[0]
			continue
		}
		if err := g.compile(&routes[i], def, pools, c.Secrets, &c.Gateway); err != nil {
			faults = append(faults, err)
		}
	}
	var table *match.Table
	if old != nil {
		table = old.table
	}
	table, err = table.Next(patterns)
	if err != nil {
		faults = append(faults, err)
	}
	general, err := newRules(c.Gateway.Headers, system.HeaderRules{})
	if err != nil {
		faults = append(faults, err)
	}
	if faults != nil {
		return fmt.Errorf("apply routes: %w", errors.Join(faults...))
	}
	if c.Before != nil {
		if err := c.Before(); err != nil {
			return err
		}
	}
	if err := g.certify(c.Gateway, c.Routes); err != nil {
		return fmt.Errorf("apply certificates: %w", err)
	}
	next := &snapshot{
		table: table, routes: routes, rules: general, limits: limits, hsts: hstsOf(c.Gateway.TLS), ready: make(map[string]*ready, len(pools)),
		closed: c.Gateway.Maintenance, decided: g.decided, door: c.Gateway, secrets: c.Secrets,
	}
	if next.admission, err = g.admission(&c, routes, pools, old); err != nil {
		return fmt.Errorf("apply filters: %w", err)
	}
	g.follow(c.Services)
	for i := range c.Services {
		svc := &c.Services[i]
		pools[svc.Name].set(svc.Pool)
		if eps, ok := g.endpointsIn(&c, svc); ok {
			next.ready[svc.Name] = newReady(g.endpointsFor(eps, svc.Pool.Protocol))
		} else if old != nil && old.ready[svc.Name] != nil {
			next.ready[svc.Name] = old.ready[svc.Name].speaking(svc.Pool.Protocol)
		}
	}
	if old != nil {
		keepLive(old.routes, routes)
	}
	g.swap(old, next, pools)
	if old != nil {
		endLive(old.routes, routes)
	}
	g.live.Refresh()
	doors.Commit()
	return nil
}

// SetEndpoints says which instances of a service are ready, those that are only on
// the bus too. The routes stay as they are. A service that no Apply has named yet
// is taken up, and dropped again by the next Apply that does not name it.
func (g *Gateway) SetEndpoints(service string, eps []Endpoint) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setEndpoints(service, eps)
}

// setEndpoints needs the mutex.
func (g *Gateway) setEndpoints(service string, eps []Endpoint) {
	old := g.snap.Load()
	next := &snapshot{limits: defaultLimits, ready: map[string]*ready{}, decided: g.decided}
	if old != nil {
		*next = *old
		next.ready = maps.Clone(old.ready)
	}
	p := g.poolFor(service)
	next.ready[service] = newReady(g.endpointsFor(eps, p.settings.Load().Protocol))
	pools := maps.Clone(g.pools)
	pools[service] = p
	g.swap(old, next, pools)
}

// swap makes next the snapshot, then wakes who waits and retires what left. The
// mutex is held.
func (g *Gateway) swap(old, next *snapshot, pools map[string]*pool) {
	g.pools = pools
	for name, rd := range next.ready {
		if old != nil && old.ready[name] == rd {
			continue
		}
		for _, e := range rd.all {
			g.bridge.Joined(name, e.Instance)
		}
	}
	g.snap.Store(next)
	stay := map[*endpoint]bool{}
	for _, rd := range next.ready {
		for _, e := range rd.all {
			stay[e] = true
			g.instances[e.Instance] = e
		}
	}
	if old != nil {
		for name, rd := range old.ready {
			if next.ready[name] == rd {
				continue
			}
			for _, e := range rd.all {
				if !stay[e] {
					e.retire()
					g.retired = append(g.retired, e.Instance)
				}
			}
		}
	}
	for len(g.retired) > keepRetired {
		if e := g.instances[g.retired[0]]; e != nil && !stay[e] {
			delete(g.instances, g.retired[0])
		}
		g.retired = g.retired[1:]
	}
	for name, p := range pools {
		if old == nil || old.ready[name] != next.ready[name] {
			p.announce()
		}
	}
}

func (g *Gateway) poolFor(service string) *pool {
	if p := g.pools[service]; p != nil {
		return p
	}
	return newPool(g, service)
}

// endpointsFor returns the endpoints of a service, those that are known already as
// they are. One that had retired and comes back at the same address is new, so
// that whoever drains the old one is not kept waiting.
func (g *Gateway) endpointsFor(eps []Endpoint, protocol system.Protocol) []*endpoint {
	out := make([]*endpoint, 0, len(eps))
	for _, ep := range eps {
		e := g.instances[ep.Instance]
		if e == nil || e.Endpoint != ep || e.protocol != protocol || e.gone.Load() {
			again := newEndpoint(ep, protocol)
			again.ticket = g.tickets.of(ep.Instance)
			if e != nil {
				again.served.Store(e.served.Load())
			}
			e = again
		}
		out = append(out, e)
	}
	return out
}

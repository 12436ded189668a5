package gateway

import (
	"fairlead/internal/gateway/external"
	"fairlead/internal/system"
)

// follow says which external services there are. The mutex is held.
func (g *Gateway) follow(services []system.Service) {
	if !g.stopped {
		g.external.Apply(services)
	}
}

// endpointsIn returns the endpoints that a service is to have, and false if it
// keeps those that it has.
func (g *Gateway) endpointsIn(c *Config, svc *system.Service) ([]Endpoint, bool) {
	if len(svc.External) > 0 {
		return g.found(svc.Name)
	}
	eps, ok := c.Endpoints[svc.Name]
	return eps, ok
}

// found returns the endpoints of an external service.
func (g *Gateway) found(service string) ([]Endpoint, bool) {
	list, ok := g.external.Endpoints(service)
	eps := make([]Endpoint, len(list))
	for i, e := range list {
		eps[i] = Endpoint{Instance: e.Instance, Network: "tcp", Address: e.Address}
	}
	return eps, ok
}

// moved is told that the endpoints of an external service may have changed.
func (g *Gateway) moved(service string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if eps, ok := g.found(service); ok && !g.stopped {
		g.setEndpoints(service, eps)
	}
}

// External returns how the instances of a service stand that something else runs,
// and false for a service that is not external.
func (g *Gateway) External(service string) (external.Status, bool) {
	return g.external.Status(service)
}

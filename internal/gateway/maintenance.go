package gateway

import (
	"cmp"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"fairlead/internal/system"
)

const (
	maintenanceText  = "down for maintenance"
	maintenanceAgain = time.Minute // after which a client may ask again
)

// SetMaintenance says what the operator has decided at run time, by the key of a
// route, or "" for the whole door: to close it, or with nil to open what the file
// closes. It takes the place of all that was decided before, and lasts whatever
// Apply and SetEndpoints say. Closing the door closes every route about which
// nothing else was decided; monitors stay open. WebSockets that are open go on.
func (g *Gateway) SetMaintenance(decided map[string]*system.Maintenance) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decided = maps.Clone(decided)
	if old := g.snap.Load(); old != nil {
		next := *old
		next.decided = g.decided
		g.snap.Store(&next)
	}
}

// maintenance returns why a request for a route is not served, nil if it is. A nil
// route stands for paths that no route takes.
func (s *snapshot) maintenance(r *route) *system.Maintenance {
	door, doorDecided := s.decided[""]
	if r != nil {
		if m, ok := s.decided[r.def.Key]; ok {
			return m
		}
		if r.def.Maintenance != nil && door == nil {
			return r.def.Maintenance
		}
		if r.monitor != nil {
			return nil
		}
	}
	if doorDecided {
		return door
	}
	return s.closed
}

// down answers a request that maintenance keeps out, and reports whether it has.
func (x *exchange) down(w http.ResponseWriter, r *http.Request) bool {
	m := x.snap.maintenance(x.route)
	if m == nil || within(m.Allow, x.origin.Client) {
		return false
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(maintenanceAgain/time.Second)))
	x.fail(w, r, http.StatusServiceUnavailable, cmp.Or(m.Text, maintenanceText))
	return true
}

func within(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"time"

	"fairlead/internal/gateway/bridge"
	"fairlead/internal/gateway/match"
	"fairlead/internal/gateway/meter"
	"fairlead/internal/gateway/publish"
	"fairlead/internal/gateway/rewrite"
	"fairlead/internal/gateway/static"
	"fairlead/internal/system"
)

// route is one [system.Route], compiled. It is immutable and shared by every
// snapshot of one Apply.
type route struct {
	def *system.Route

	// Where it leads: to exactly one of these.
	split    *split         // services over HTTP
	bus      *bridge.Route  // a request on the bus
	publish  *publish.Route // a queue
	files    *static.Folder // a folder
	redirect *rewrite.Redirect
	monitor  http.Handler // something that fairlead itself answers
	nats     *natsRoute   // clients of the bus
	live     *liveRoute   // subscribers

	pool    *pool         // of the service that answers over the bus
	strip   int           // segments that the service does not see
	rewrite *rewrite.Path // nil: the service sees the client's path
	rules   rules
	sticky  string // name of the gateway's own cookie, "" for none

	meter    *meter.Meter
	compress bool
	timeout  time.Duration
	body     int64         // most bytes of a request's body
	filters  *routeFilters // shared by the routes that say nothing of their own
}

// defaultTimeout is that of a route without one.
const defaultTimeout = 30 * time.Second

// compile fills in a route, which is zero.
func (g *Gateway) compile(r *route, def *system.Route, pools map[string]*pool, secrets map[string]string, door *system.Gateway) error {
	r.def = def
	r.meter = g.meters.Of(def.Key)
	r.timeout = cmp.Or(def.Timeout, defaultTimeout)
	r.body = cmp.Or(def.Limits.Body, door.Limits.Body, defaultLimits.Body)
	r.compress = compresses(door.Filters.Compress, def.Filters.Compress)
	err := g.lead(r, pools, secrets)
	if err == nil {
		err = r.readPath()
	}
	if err == nil {
		r.rules, err = newRules(door.Headers, def.Headers)
	}
	if err != nil {
		return fmt.Errorf("route %q: %w", def.Key, err)
	}
	return nil
}

// lead compiles where a route leads.
func (g *Gateway) lead(r *route, pools map[string]*pool, secrets map[string]string) (err error) {
	def := r.def
	switch {
	case len(def.Targets) > 0:
		if r.split, err = newSplit(def.Targets, pools); err == nil && def.Sticky == stickyCookie {
			r.sticky = cookieName(def.Targets)
		}
	case def.Request != nil:
		if g.bridge == nil {
			return errors.New("there is no bus")
		}
		if r.pool = pools[def.Request.Service]; r.pool == nil {
			return fmt.Errorf("there is no service %q", def.Request.Service)
		}
		r.bus, err = bridge.NewRoute(def)
	case def.Publish != nil:
		if g.opts.Queues == nil || g.opts.Bus == nil {
			return errors.New("there is no bus")
		}
		r.publish, err = publish.New(def, secrets)
	case def.NATS != nil:
		if g.opts.NATS == nil {
			return errors.New("there is no bus")
		}
		r.nats = newNATSRoute(def.NATS)
	case def.Files != nil:
		r.files, err = static.Open(def.Files, def.Path, len(def.Roles)+len(def.Auth) > 0)
	case def.Redirect != nil:
		r.redirect, err = rewrite.ParseRedirect(def.Redirect.To, r.known())
	case def.Subscribe != nil:
		if g.live == nil {
			return errors.New("there is no bus")
		}
		r.live, err = newLiveRoute(def, r.known())
	case def.Monitor != "":
		if r.monitor = g.monitor(def.Monitor); r.monitor == nil {
			return fmt.Errorf("there is no monitor %q", def.Monitor)
		}
	default:
		return errors.New("it leads nowhere")
	}
	return err
}

// readPath compiles how the path is changed on the way to the service.
func (r *route) readPath() (err error) {
	switch {
	case r.def.StripPrefix && r.def.Rewrite != "":
		return errors.New("strip_prefix and rewrite exclude each other")
	case r.def.StripPrefix || r.monitor != nil:
		r.strip = rewrite.Prefix(r.def.Path)
	case r.def.Rewrite != "":
		r.rewrite, err = rewrite.ParsePath(r.def.Rewrite, r.known())
	}
	return err
}

// known tells the names of the wildcards in the route's path.
func (r *route) known() func(name string) bool {
	names := match.Names(r.def.Path)
	return func(name string) bool { return names[name] }
}

// compresses says whether answers of a route are compressed. They are, unless the
// route, or else the gateway, says not.
func compresses(gateway, route *bool) bool {
	switch {
	case route != nil:
		return *route
	case gateway != nil:
		return *gateway
	}
	return true
}

// reroute makes the path that the service sees. If the values of the path make no
// clean one, it answers and reports false.
func (x *exchange) reroute(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case x.route.strip > 0:
		x.prefix, x.path = rewrite.Strip(x.path, x.route.strip)
	case x.route.rewrite != nil:
		path, err := x.route.rewrite.Fill(x.vars)
		if err != nil {
			x.fail(w, r, http.StatusBadRequest, err.Error())
			return false
		}
		x.path = path
	}
	return true
}

// sendElsewhere answers with a redirect.
func (x *exchange) sendElsewhere(w http.ResponseWriter, r *http.Request) {
	to, err := x.route.redirect.Location(x.vars, r.URL.RawQuery)
	if err != nil {
		x.fail(w, r, http.StatusBadRequest, err.Error())
		return
	}
	w.Header().Set("Location", to)
	w.Header().Set("Content-Length", "0")
	x.leaveBody(w, r)
	w.WriteHeader(cmp.Or(x.route.def.Redirect.Status, http.StatusPermanentRedirect))
}

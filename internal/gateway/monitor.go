package gateway

import (
	"net/http"
	"net/url"

	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// monitor returns what answers a route of that kind, nil if nothing does.
func (g *Gateway) monitor(kind system.Monitor) http.Handler {
	if h := g.opts.Monitors[kind]; h != nil {
		return h
	}
	if kind == system.MonitorHealth {
		return http.HandlerFunc(g.tellHealth)
	}
	return nil
}

// tellHealth answers 200 while the door serves, and 503 once it lets go, so that
// whoever spreads requests over doors takes this one out in time. A door that is
// down for maintenance serves: it says so itself.
func (g *Gateway) tellHealth(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	status, text := http.StatusOK, `{"status":"ok"}`
	select {
	case <-g.stopping:
		status, text = http.StatusServiceUnavailable, `{"status":"stopping"}`
	default:
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // a client that is gone is nothing to report
}

// watch lets a monitor answer, which sees the path without the route's prefix.
func (x *exchange) watch(w http.ResponseWriter, r *http.Request) {
	inner := *r
	inner.URL = &url.URL{Path: match.Unescape(x.path), RawPath: x.path, RawQuery: r.URL.RawQuery}
	inner.RequestURI = x.path
	x.route.monitor.ServeHTTP(w, &inner)
}

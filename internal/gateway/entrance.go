package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/listen"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// entrance is the handler of one listener: by it, requests know how they came in.
type entrance struct {
	g      *Gateway
	info   listen.Info
	altSvc []string // the value of Alt-Svc, nil for none
	// challenges answers those of an authority for certificates, and leaves the rest
	// to the entrance; nil for none.
	challenges http.Handler
}

// altSvcAge is how long a browser may remember that HTTP/3 is spoken here.
const altSvcAge = time.Hour

// enter makes the handler of a listener.
func (g *Gateway) enter(info listen.Info) listen.Handler {
	e := &entrance{g: g, info: info}
	if info.HTTP3 && info.TLS {
		e.altSvc = []string{fmt.Sprintf(`h3=":%d"; ma=%d`, info.Bound.Port(), int(altSvcAge.Seconds()))}
	}
	if !info.TLS && g.opts.Certificates != nil {
		e.challenges = g.opts.Certificates.ChallengeHandler(http.HandlerFunc(e.receive))
	}
	return e
}

// ServeHTTP serves one request that came by this listener.
func (e *entrance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.challenges != nil {
		e.challenges.ServeHTTP(w, r)
		return
	}
	e.receive(w, r)
}

// Refuse answers what is no proper request.
func (e *entrance) Refuse(w http.ResponseWriter, r *http.Request, status int, detail string) {
	x := e.begin(w, r)
	defer x.end(r)
	x.derive(r)
	x.fail(&x.answer, r, status, detail)
}

// scheme returns how the client speaks to the door: http or https.
func (x *exchange) scheme() string {
	if x.entrance != nil && x.entrance.info.TLS {
		return "https"
	}
	return "http"
}

// present adds to the head of an answer what is said on this listener only.
func (e *entrance) present(h http.Header, s *snapshot) {
	if e == nil || !e.info.TLS {
		return
	}
	if s != nil && s.hsts != nil {
		h["Strict-Transport-Security"] = s.hsts
	}
	if e.altSvc != nil {
		h["Alt-Svc"] = e.altSvc
	}
}

// hstsOf returns the value of Strict-Transport-Security, nil for none.
func hstsOf(t *system.TLS) []string {
	if t == nil || t.HSTS <= 0 {
		return nil
	}
	return []string{"max-age=" + strconv.FormatInt(int64(t.HSTS/time.Second), 10)}
}

// redirectSecure sends the client to https. Those who only read get 301, which
// every client knows; the others 308, which keeps method and body.
func (x *exchange) redirectSecure(w http.ResponseWriter, r *http.Request) {
	target, ok := secureURL(r, x.entrance.info.SecurePort)
	if !ok {
		x.fail(w, r, http.StatusBadRequest, "the request does not say which host it is for")
		return
	}
	status := http.StatusPermanentRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	x.leaveBody(w, r)
	h := w.Header()
	h["Location"] = []string{target}
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(status)
}

// secureURL returns a request's URL with https and a port; host, path and query
// stay as they are. It reports false if the host is none.
func secureURL(r *http.Request, port int) (string, bool) {
	host := r.Host
	if name, p, err := net.SplitHostPort(host); err == nil && p != "" {
		host = name
		if strings.Contains(name, ":") {
			host = "[" + name + "]"
		}
	}
	if host == "" || !match.SafeHost(host) {
		return "", false
	}
	if port != httpsPort && port != 0 {
		host += ":" + strconv.Itoa(port)
	}
	path := r.URL.EscapedPath()
	if !strings.HasPrefix(path, "/") { // OPTIONS *
		path = "/"
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		path += "?" + r.URL.RawQuery
	}
	return "https://" + host + path, true
}

const httpsPort = 443

// openDoors makes the listeners, which bind nothing yet.
func (g *Gateway) openDoors() *listen.Set {
	opts := listen.Options{
		Logger: g.log, Handler: g.enter, Inherited: g.opts.Inherited, Ages: &g.connections, Banned: g.turnsAway,
		HeadTime: headTime, IdleTime: idleTime, WriteTime: streamIdle, MaxHead: maxHead,
	}
	if g.opts.Certificates != nil {
		opts.TLS = g.opts.Certificates.Config
	}
	return listen.New(opts)
}

// bind binds what of a configuration's listeners is not bound yet. Before Start it
// binds nothing.
func (g *Gateway) bind(ctx context.Context, c system.Gateway) (*listen.Change, error) {
	conf := listen.Config{Listeners: c.Listeners, Connections: c.Limits.Connections, Trusted: c.TrustedProxies}
	switch {
	case !g.started:
		conf.Listeners = nil
	case g.opts.Listen != "" && len(c.Listeners) > 0:
		conf.Listeners = slices.Clone(c.Listeners)
		conf.Listeners[0].Address = g.opts.Listen
	}
	return g.doors.Prepare(ctx, conf)
}

// certify makes the certificates those of a configuration.
func (g *Gateway) certify(c system.Gateway, routes []*system.Route) error {
	if g.opts.Certificates == nil {
		return nil
	}
	return g.opts.Certificates.Apply(c.TLS, hostsOf(routes))
}

// hostsOf returns the hosts that routes name.
func hostsOf(routes []*system.Route) []string {
	var hosts []string
	for i := range routes {
		if routes[i].Host != "" {
			hosts = append(hosts, routes[i].Host)
		}
	}
	return hosts
}

// Open says what is under way at a moment.
type Open struct {
	Connections int // of clients, tunnels included
	Requests    int // tunnels not counted
	Tunnels     int // connections that were upgraded, WebSockets above all
}

// Open returns what is under way.
func (g *Gateway) Open() Open {
	tunnels := g.lasting.Tunnels()
	return Open{
		Connections: g.doors.Connections(),
		Requests:    max(0, int(g.open.Load())-tunnels),
		Tunnels:     tunnels,
	}
}

// Sockets returns duplicates of the listening sockets for the process that takes
// over, which gives them to its gateway as Options.Inherited. The caller closes
// them. Pass them on by number (SyscallConn): (*os.File).Fd must not be called, and
// none is needed for UDP, see [listen.Set.Sockets].
func (g *Gateway) Sockets() ([]listen.Socket, error) { return g.doors.Sockets() }

// Retire stops accepting connections and tells every client to go: Connection:
// close, GOAWAY. What is under way goes on, and what idles may ask once more, so
// that no request is lost; Stop ends the rest. Only this process's sockets are
// closed: one that another process has inherited goes on accepting. It returns at
// once.
func (g *Gateway) Retire() {
	g.doors.Retire()
	g.live.Retire()
}

// Listening returns the addresses of all listeners for a client on this machine, as
// URLs, in the order of the file; none before Start.
func (g *Gateway) Listening() []string {
	var list []string
	for _, info := range g.doors.Infos() {
		list = append(list, urlOf(info))
	}
	return list
}

// urlOf returns the address of a listener for a client on this machine.
func urlOf(info listen.Info) string {
	scheme, addr := "http://", info.Bound.Addr().Unmap()
	if info.TLS {
		scheme = "https://"
	}
	if addr.IsUnspecified() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return scheme + netip.AddrPortFrom(addr, info.Bound.Port()).String()
}

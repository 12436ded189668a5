package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead/internal/gateway/meter"
	"fairlead/internal/system"
)

// Options are what a [Set] is made with.
type Options struct {
	Logger *slog.Logger // nil: logs nothing

	// Handler makes the handler of a listener. It is called once for each listener,
	// and again when what the file says of it has changed.
	Handler func(Info) Handler

	// TLS makes the configuration of a listener with TLS that negotiates these
	// protocols. What it decides for a connection (the certificate, say) may change
	// while the listener lives. Nil: no listener may have TLS.
	TLS func(alpn ...string) *tls.Config

	// Inherited are the sockets that another process handed over. The first Prepare
	// takes those it needs and closes the rest.
	Inherited []Socket

	// Banned says whether a client's connections are closed at once; nil: nobody's
	// are.
	Banned func(client netip.Addr) bool

	// Ages counts connections by when they came; nil: nobody asks.
	Ages *meter.Ages

	HeadTime  time.Duration // for a client to send a request's head; default 10 s
	IdleTime  time.Duration // between two requests of a connection; default 120 s
	WriteTime time.Duration // for a client that takes nothing at all, HTTP/2 only; default 60 s
	MaxHead   int           // most bytes of a request's head; default 256 KiB
}

// Handler serves the requests of one listener.
type Handler interface {
	http.Handler
	// Refuse answers what came over HTTP/1.1 and is no proper request, whose
	// connection is closed afterwards, and what is one request too many of HTTP/2 or
	// HTTP/3. The request holds what was understood of it.
	Refuse(w http.ResponseWriter, r *http.Request, status int, detail string)
}

// Socket is a listening TCP socket on its way from one process to the next.
type Socket struct {
	Address string // as the file has it
	File    *os.File
}

// Info is what the handler of a listener knows of it.
type Info struct {
	system.Listener // as the file has it

	Bound      netip.AddrPort
	SecurePort int // of the first listener with TLS that is no redirect, 0 for none
}

// Config is what a [Set] is to listen on.
type Config struct {
	Listeners []system.Listener // none: those that are there stay

	// Connections is the most that one client's address may have open, IPv6 by its
	// /64; zero means 1,000. Clients in Trusted are not limited so: they bring the
	// connections of many.
	Connections int
	Trusted     []netip.Prefix
}

// Set is all listeners of the door. Make it with [New]; all methods are safe for
// concurrent use.
type Set struct {
	opts Options
	log  *slog.Logger
	room *room

	accepting sync.WaitGroup
	tasks     sync.WaitGroup // connections, and what waits for a UDP port

	mu        sync.Mutex // guards the fields below; held from Prepare until Commit or Abort
	listeners []*listener
	inherited []Socket
	over      bool // Retire has been called

	serving sync.Mutex // guards the fields below
	servers map[*server]struct{}
	ports   map[*quicPort]struct{}
}

// New makes a set without listeners. It does no I/O.
func New(opts Options) *Set {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.HeadTime == 0 {
		opts.HeadTime = 10 * time.Second
	}
	if opts.IdleTime == 0 {
		opts.IdleTime = 120 * time.Second
	}
	if opts.WriteTime == 0 {
		opts.WriteTime = 60 * time.Second
	}
	if opts.MaxHead == 0 {
		opts.MaxHead = 256 << 10
	}
	if opts.Ages == nil {
		opts.Ages = &meter.Ages{}
	}
	return &Set{
		opts:      opts,
		log:       opts.Logger,
		room:      newRoom(opts.Logger),
		inherited: opts.Inherited,
		servers:   map[*server]struct{}{},
		ports:     map[*quicPort]struct{}{},
	}
}

// listener is one bound address.
type listener struct {
	address string // as the file has it
	tcp     *net.TCPListener
	taken   bool                   // inherited from another process
	server  atomic.Pointer[server] // of new connections
	over    atomic.Bool            // closed on purpose
	quic    *quicPort              // nil without HTTP/3; guarded by the set's mu
}

func (l *listener) bound() netip.AddrPort { return addrOf(l.tcp.Addr()) }

// Change is a prepared change of a set. Exactly one of its methods must be called;
// calls after the first do nothing.
type Change struct {
	set    *Set
	config Config
	next   []*listener
	fresh  []*listener                // of next, those that were bound for this
	udp    map[*listener]*net.UDPConn // of next, bound for this
	once   sync.Once
}

// ErrRetired is returned by Prepare after Retire.
var ErrRetired = errors.New("the listeners have been given up")

// Prepare binds every listener of c that is not bound yet. It changes nothing else:
// Commit does. The error for a port in use is an [AddressInUseError].
func (s *Set) Prepare(ctx context.Context, c Config) (_ *Change, err error) {
	s.mu.Lock()
	ch := &Change{set: s, config: c, udp: map[*listener]*net.UDPConn{}}
	defer func() {
		if err != nil {
			ch.Abort()
		}
	}()
	if s.over {
		return nil, ErrRetired
	}
	have := slices.Clone(s.listeners)
	for _, def := range c.Listeners {
		if def.TLS && s.opts.TLS == nil {
			return nil, fmt.Errorf("listen %s: there are no certificates", def.Address)
		}
		l := takeListener(&have, def.Address)
		if l == nil {
			if l, err = s.bind(ctx, def); err != nil {
				return nil, err
			}
			ch.fresh = append(ch.fresh, l)
		}
		ch.next = append(ch.next, l)
		if err := ch.bindUDP(ctx, l, def); err != nil {
			return nil, err
		}
	}
	return ch, nil
}

// takeListener takes the first listener with that address out of the list.
func takeListener(have *[]*listener, address string) *listener {
	i := slices.IndexFunc(*have, func(l *listener) bool { return l.address == address })
	if i < 0 {
		return nil
	}
	l := (*have)[i]
	*have = slices.Delete(*have, i, i+1)
	return l
}

// bind takes an inherited socket, or makes one.
func (s *Set) bind(ctx context.Context, def system.Listener) (*listener, error) {
	i := slices.IndexFunc(s.inherited, func(f Socket) bool { return f.Address == def.Address })
	if i >= 0 {
		f := s.inherited[i].File
		s.inherited = slices.Delete(slices.Clone(s.inherited), i, i+1)
		l, err := net.FileListener(f)
		_ = f.Close() // the listener has a duplicate
		if err != nil {
			return nil, fmt.Errorf("take over listener %s: %w", def.Address, err)
		}
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return nil, errors.Join(fmt.Errorf("take over listener %s: it is not a TCP socket", def.Address), l.Close())
		}
		return &listener{address: def.Address, tcp: tcp, taken: true}, nil
	}
	tcp, err := bind(ctx, def.Address)
	if err != nil {
		return nil, err
	}
	return &listener{address: def.Address, tcp: tcp}, nil
}

// bindUDP binds the UDP port of a listener that is to speak HTTP/3 and does not yet.
// Behind an inherited socket that is left to the background: its port may still be
// the other process's.
func (ch *Change) bindUDP(ctx context.Context, l *listener, def system.Listener) error {
	if !speaksHTTP3(def) || l.quic != nil || l.taken {
		return nil
	}
	c, err := listenUDP(ctx, l.tcp.Addr())
	if err != nil {
		return fmt.Errorf("listen %s for HTTP/3: %w", def.Address, err)
	}
	ch.udp[l] = c
	return nil
}

// Abort lets go of what Prepare has bound.
func (ch *Change) Abort() {
	ch.once.Do(func() {
		for _, l := range ch.fresh {
			_ = l.tcp.Close() // nobody has been accepted
		}
		for _, c := range ch.udp {
			_ = c.Close() // as above
		}
		ch.set.mu.Unlock()
	})
}

// Commit makes the change: new listeners accept, changed ones serve new connections
// in the new way and tell the old ones to go, removed ones end when their
// connections have.
func (ch *Change) Commit() {
	ch.once.Do(func() {
		s := ch.set
		defer s.mu.Unlock()
		s.room.limit(ch.config.Connections, ch.config.Trusted)
		if len(ch.config.Listeners) == 0 {
			return
		}
		for i, l := range ch.next {
			s.renew(l, ch.info(i), ch.udp[l])
		}
		for _, l := range ch.fresh {
			s.accepting.Go(func() { s.accept(l) })
		}
		gone := slices.DeleteFunc(s.listeners, func(l *listener) bool { return slices.Contains(ch.next, l) })
		for _, l := range gone {
			s.end(l)
		}
		s.listeners = ch.next
		for _, f := range s.inherited { // of listeners that the file no longer has
			_ = f.File.Close() // only a duplicate
		}
		s.inherited = nil
	})
}

// info is what the handler of the i-th listener is told.
func (ch *Change) info(i int) Info {
	info := Info{Listener: ch.config.Listeners[i], Bound: ch.next[i].bound()}
	for k, def := range ch.config.Listeners {
		if def.TLS && !def.Redirect {
			info.SecurePort = int(ch.next[k].bound().Port())
			break
		}
	}
	return info
}

// renew gives a listener a server for info, if the one it has is not the same.
func (s *Set) renew(l *listener, info Info, udp *net.UDPConn) {
	old := l.server.Load()
	if old != nil && reflect.DeepEqual(old.info, info) {
		return
	}
	srv := newServer(s, info)
	s.remember(srv)
	l.server.Store(srv)
	s.renewQUIC(l, srv, udp)
	if old != nil {
		old.retire()
	}
}

// end closes a listener. Other processes that have its socket go on.
func (s *Set) end(l *listener) {
	l.over.Store(true)
	_ = l.tcp.Close() // nothing can be done about it
	s.endQUIC(l)
	if srv := l.server.Load(); srv != nil {
		srv.retire()
	}
}

func (s *Set) remember(srv *server) {
	s.serving.Lock()
	defer s.serving.Unlock()
	s.servers[srv] = struct{}{}
}

// forget drops a server that has ended.
func (s *Set) forget(srv *server) {
	s.serving.Lock()
	defer s.serving.Unlock()
	delete(s.servers, srv)
}

// Infos returns what is listened on, in the order of the file.
func (s *Set) Infos() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]Info, len(s.listeners))
	for i, l := range s.listeners {
		infos[i] = l.server.Load().info
	}
	return infos
}

// Addr returns the first listener's address, nil if there is none.
func (s *Set) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listeners) == 0 {
		return nil
	}
	return s.listeners[0].tcp.Addr()
}

// Sockets returns duplicates of the listening TCP sockets for another process. The
// caller closes them. The UDP sockets of HTTP/3 are not among them: packets of open
// connections would reach the wrong process. The other process binds them once this
// one has let go.
func (s *Set) Sockets() ([]Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Socket
	for _, l := range s.listeners {
		f, err := duplicate(l.tcp)
		if err != nil {
			for _, d := range list {
				_ = d.File.Close() // only a duplicate
			}
			return nil, fmt.Errorf("duplicate listener %s: %w", l.address, err)
		}
		list = append(list, Socket{Address: l.address, File: f})
	}
	return list, nil
}

func duplicate(c syscall.Conn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, cerr := 0, error(nil)
	err = raw.Control(func(s uintptr) {
		// With the lock no child can be started before the flag is set.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, cerr = syscall.Dup(int(s)); cerr == nil {
			syscall.CloseOnExec(fd)
		}
	})
	if err = errors.Join(err, cerr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// Connections returns how many connections are open, tunnels and those of HTTP/3
// included.
func (s *Set) Connections() int { return s.room.count() }

// ByListener returns how many TCP connections are open, by the address of their
// listener as the file has it, those of listeners that end too.
func (s *Set) ByListener() map[string]int {
	by := map[string]int{}
	servers, _ := s.all()
	for _, srv := range servers {
		srv.mu.Lock()
		by[srv.info.Address] += len(srv.conns)
		srv.mu.Unlock()
	}
	return by
}

// Retire stops accepting for good and tells every client to go: Connection: close on
// each further answer of HTTP/1.1, GOAWAY on HTTP/2 and HTTP/3. Nothing that is
// under way is cut, and what idles stays open for its next request, so that none
// meets a close. It returns at once.
func (s *Set) Retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	for _, l := range s.listeners {
		s.end(l)
	}
	for _, f := range s.inherited {
		_ = f.File.Close() // only a duplicate
	}
	s.inherited = nil
}

// Stop retires the set, closes what idles, and returns when nothing is under way any
// more, hijacked connections included. When ctx ends first, its error is returned,
// and Cut is what is left to do. Later calls wait in the same way.
func (s *Set) Stop(ctx context.Context) error {
	s.Retire()         //nolint:contextcheck // waits for nothing
	s.accepting.Wait() // what has been accepted is known now
	servers, ports := s.all()
	errs := make([]error, len(servers))
	var stops sync.WaitGroup
	for i, srv := range servers {
		stops.Go(func() { errs[i] = srv.stop(ctx) })
	}
	stops.Wait()
	if err := errors.Join(errs...); err != nil {
		return ctx.Err() // the only error there is
	}
	for _, p := range ports {
		select {
		case <-p.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.tasks.Wait()
	return nil
}

// Cut closes every connection at once. Call it after Stop.
func (s *Set) Cut() {
	s.Retire()
	s.accepting.Wait()
	servers, ports := s.all()
	for _, srv := range servers {
		srv.cut()
	}
	for _, p := range ports {
		p.cut()
	}
}

// all returns what has not ended.
func (s *Set) all() ([]*server, []*quicPort) {
	s.serving.Lock()
	defer s.serving.Unlock()
	return slices.Collect(maps.Keys(s.servers)), slices.Collect(maps.Keys(s.ports))
}

// Refused returns how many connections were not taken, by reason: "connection", their
// client had as many as it may have; "full", the door had; "proxy", a PROXY header was
// malformed, missing, or sent by somebody who may not.
func (s *Set) Refused() map[string]uint64 { return s.room.refusedBy() }

func (s *Set) banned(client netip.Addr) bool {
	return s.opts.Banned != nil && s.opts.Banned(client)
}

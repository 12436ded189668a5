package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/bus/delivery"
	"fairlead/internal/bus/gatekeeper"
	"fairlead/internal/bus/link"
	"fairlead/internal/bus/outside"
	"fairlead/internal/system"
)

// Errors of the package.
var (
	// ErrClosed is returned by everything once [Bus.Close] was called.
	ErrClosed = errors.New("bus is closed")
	// ErrUnknownService is returned for a service that the model does not hold.
	ErrUnknownService = errors.New("unknown service")
	// ErrUnknownInstance is returned for an instance that has no credentials.
	ErrUnknownInstance = errors.New("unknown instance")
	// ErrNoBus is returned for a service without a bus section in the file.
	ErrNoBus = errors.New("no bus section")
	// ErrSuspended is returned between [Bus.Suspend] and [Bus.Resume].
	ErrSuspended = errors.New("bus is suspended")
)

// DefaultMaxPayload is the largest message that the bus carries by default.
const DefaultMaxPayload = 1 << 20

// Options say how to open a [Bus].
type Options struct {
	// Dir is the folder of the store. It is made if it is missing.
	Dir string
	// Listen is the loopback address for clients, "127.0.0.1:0" by default; port
	// 0 takes a free one, which stays the same until Close.
	Listen string
	// System is the system's name, shown by NATS's tools.
	System string
	// Logger gets the server's log; nil discards it.
	Logger *slog.Logger
	// MaxPayload is the largest message in bytes, headers included; 0 is
	// [DefaultMaxPayload], at most 64 MiB.
	MaxPayload int32
	// Model is what [Bus.Apply] would be given, in force before anybody connects;
	// nil: none until Apply.
	Model *system.System
	// Elsewhere is a NATS server whose JetStream keeps what the bus keeps; then Dir
	// holds no store. nil: the bus keeps it itself.
	Elsewhere *link.Server
	// Former is what the bus of another process that had the store before knew. Its
	// port and its users are those of the new bus. nil: there was none.
	Former *Former

	memory string // of tests, instead of /dev/shm
}

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = DefaultMaxPayload
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// listen splits the address and refuses one that is reachable from outside: the
// bus speaks clear text.
func (o Options) listen() (host string, port int, err error) {
	host, p, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen %s: port must be 0 to 65535", o.Listen)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return "", 0, fmt.Errorf("listen %s: must be a loopback address", o.Listen)
	}
	return host, int(n), nil
}

// Bus is a running NATS server. All its methods are safe for concurrent use.
type Bus struct {
	log    *slog.Logger
	server atomic.Pointer[server.Server] // nil while suspended
	base   *server.Options               // without the instances' users; cloned for every reload
	lock   *os.File
	link   *toElsewhere // nil: the store is here

	staging *staging // nil: the store is elsewhere
	url     string

	operator  Credentials // for connections of this process
	publisher Credentials // for what the door stores, in this process
	tools     Credentials // for the operator's tools
	gateway   Credentials
	inbox     string // prefix of the gateway's inboxes

	mu        sync.Mutex // guards all below
	closed    bool
	sys       *system.System
	instances map[string]*instance
	users     map[string]User // by name, those that have expired too; replaced as a whole
	expiry    time.Time       // when the first user expires that the server knows, zero for never
	changes   uint64          // counts the changes of sys, instances and users
	conns     []*nats.Conn
	consumers map[string][]delivery.Consumer // by their owners; nil: not read yet
	keeping   *keeper                        // of what services are asked while they are away; nil: they are not
	gate      *gatekeeper.Gatekeeper         // of the server that runs, or ran last
	gateConn  *nats.Conn                     // its connection, nil: it is closed
	// gated says that JetStream is reached by the gatekeeper only, from the first queue
	// on: without one nobody is granted any of it, and the server has nothing to map,
	// which it does not do without races of its own (docs/decisions/0025).
	gated bool

	reload  sync.Mutex        // serialises reloads; never taken with mu held
	applied uint64            // the changes that the server knows; guarded by reload
	known   []*server.User    // that the server was told last, nil if it began since; guarded by reload
	told    time.Time         // when the last reload ended; guarded by reload
	mapped  map[string]string // subjects of queues -> where the server maps them to; guarded by reload

	gateMapped bool // the server maps to the gatekeeper; guarded by reload

	catalogue queues
	front     *outside.Front // for clients on other machines

	looking sync.Mutex // guards shot
	shot    snapshot

	health storeHealth
	broken chan struct{} // holds a token when the store is to be mended
	regard chan struct{} // holds a token when users have changed

	life     sync.Mutex         // one of Suspend, Resume and Close at a time
	unwatch  context.CancelFunc // ends the watches
	watches  sync.WaitGroup     // mendStore, tendStaging, thinCrowds and expireUsers
	ended    chan struct{}      // closed when a server that was suspended has ended
	closing  sync.Once
	finished chan struct{} // closed when the server has ended and the lock is free
}

// Open starts the server and returns when it takes connections and the store is
// read. Close must be called. It returns [ErrLocked], naming the process, if
// another server has the store, and an error if the address cannot be had or the
// store cannot be read.
//
// The context bounds the start only.
func Open(ctx context.Context, o Options) (_ *Bus, err error) {
	o = o.withDefaults()
	defer func() {
		if err != nil {
			err = fmt.Errorf("open bus: %w", err)
		}
	}()
	if o.Dir == "" {
		return nil, errors.New("folder of the store is missing")
	}
	if o.MaxPayload < 0 || o.MaxPayload > 64<<20 {
		return nil, fmt.Errorf("max payload must be 1 to %d bytes, is %d", 64<<20, o.MaxPayload)
	}
	host, port, err := o.listen()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	b := &Bus{
		log:       o.Logger,
		inbox:     gatewayInboxes + "." + random(),
		sys:       o.Model,
		instances: make(map[string]*instance),
		broken:    make(chan struct{}, 1),
		regard:    make(chan struct{}, 1),
		finished:  make(chan struct{}),
	}
	b.front = outside.New(outside.Options{Dial: pipe{b}.InProcessConn, Hello: b.hello, Logger: o.Logger})
	b.operator = Credentials{User: "fairlead.operator", Password: secret()}
	b.publisher = Credentials{User: "fairlead.publisher", Password: secret()}
	b.tools = Credentials{User: "fairlead.tools", Password: secret(), InboxPrefix: sharedInboxes}
	b.gateway = Credentials{User: "fairlead.gateway", Password: secret(), InboxPrefix: b.inbox}
	if o.Former != nil {
		b.follow(o.Former)
		port = o.Former.Port
	}
	b.base = serverOptions(o, host, port)
	if o.Elsewhere != nil {
		if b.link, err = b.linkTo(ctx, *o.Elsewhere, o.System); err != nil {
			return nil, err
		}
	} else {
		b.staging = newStaging(o.Dir, o.memory, o.Logger)
	}
	var kept []Kept
	if o.Former != nil {
		kept = append([]Kept{}, o.Former.Kept...)
	}
	if err := b.run(ctx, o.Former != nil, kept); err != nil {
		return nil, err
	}
	if b.link != nil {
		err = b.awaitLink(ctx)
	}
	if err == nil && o.Model != nil {
		err = b.openQueues(ctx, o.Model)
	}
	if err == nil {
		err = b.listenOutside(ctx, o.Model)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close(context.WithoutCancel(ctx)))
	}
	return b, nil
}

// run takes the store and starts the server and its watches; again says that the
// port was ours a moment ago.
func (b *Bus) run(ctx context.Context, again bool, kept []Kept) (err error) {
	if b.lock, err = lockStore(b.base.StoreDir); err != nil {
		return err
	}
	if err = b.link.arm(); err == nil {
		err = b.await(ctx, again, kept)
	}
	if err != nil {
		return errors.Join(err, b.link.disarm(), b.lock.Close())
	}
	var watching context.Context
	watching, b.unwatch = context.WithCancel(context.WithoutCancel(ctx))
	if b.link != nil {
		b.watches.Go(func() { b.watchLink(watching) })
	} else {
		b.watches.Go(func() { b.mendStore(watching) })
		b.watches.Go(func() { b.tendStaging(watching) })
	}
	b.watches.Go(func() { b.thinCrowds(watching) })
	b.watches.Go(func() { b.expireUsers(watching) })
	return nil
}

// serverOptions are the server's options without its users.
func serverOptions(o Options, host string, port int) *server.Options {
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return &server.Options{
		ServerName: "fairlead-" + o.System,
		Host:       host,
		Port:       port,
		NoSigs:     true,
		DontListen: true, // until start lets clients in
		NoLog:      true, // of its own; ours is set before the start

		JetStream:          true,
		StoreDir:           o.Dir,
		SyncAlways:         true,
		JetStreamMaxMemory: 256 << 20,
		// The disk is the limit. By default it is three quarters of what was free at
		// the start, and stays so when space is freed.
		JetStreamMaxStore: 1 << 50,

		MaxPayload:     o.MaxPayload,
		MaxConn:        maxConnections,
		MaxSubs:        4096,
		MaxControlLine: 8 << 10,
		AuthTimeout:    5, // seconds
		WriteDeadline:  10 * time.Second,

		MaxClosedClients: 1024, // their counts are read once more, see final
	}
}

// start runs the server. On error nothing of it is left.
//
// Clients are let in last: with kept, which may be empty, everything that comes for
// instances that are not back yet is kept from the first moment. nil: it is not.
func (b *Bus) start(ctx context.Context, kept []Kept) (err error) {
	opts := b.base.Clone()
	b.mu.Lock()
	users, err := b.usersLocked()
	known, mapped, gated := b.changes, b.mappings(b.sys), b.gated
	b.mu.Unlock()
	if err != nil {
		return err
	}
	opts.Users = users
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configure server: %w", err)
	}
	defer func() {
		if err != nil {
			b.server.Store(nil)
			b.stopKeeping()
			s.Shutdown()
			s.WaitForShutdown()
			b.closeGate()
			b.staging.end()
			err = fmt.Errorf("start server: %w", err)
		}
	}()
	// Before it listens: nothing comes past the gatekeeper and the checker.
	if gated {
		if err := b.mapGate(s.GlobalAccount()); err != nil {
			return err
		}
	}
	if err := mapSubjects(s.GlobalAccount(), nil, mapped); err != nil {
		return err
	}
	b.reload.Lock()
	b.mapped, b.applied, b.gateMapped, b.known = mapped, known, gated, nil
	b.reload.Unlock()
	log := newServerLog(b.log, b.settleHandshakes, b.problem)
	s.SetLoggerV2(log, false, false, false)
	if err := b.staging.trust(); err != nil {
		return err
	}
	// Start returns once the store is read, or when it has told the log why not.
	s.Start()
	if reason := log.reason(); reason != "" {
		return errors.New(reason)
	}
	for !s.ReadyForConnections(50 * time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if b.link == nil {
		b.tidyFirst(ctx, s)
	}
	b.server.Store(s)
	if err := b.openGate(); err != nil {
		return err
	}
	if kept != nil {
		if err := b.keep(kept); err != nil {
			return err
		}
	}
	s.AcceptLoop(make(chan struct{})) // returns when the listener is open, or when it has told the log why not
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		return errors.New(cmp.Or(log.reason(), "no listener"))
	}
	b.base.Port = addr.Port
	b.url = "nats://" + net.JoinHostPort(b.base.Host, strconv.Itoa(addr.Port))
	for _, c := range []*Credentials{&b.operator, &b.tools, &b.gateway} {
		c.URL = b.url
	}
	// What changed while it started, it does not know.
	b.mu.Lock()
	late := b.changes
	b.mu.Unlock()
	if late == known {
		return nil
	}
	return b.flush(late)
}

// Close cuts all connections, also those that the bus has given out, ends the
// server and frees the store. It is idempotent and safe for concurrent use. If
// ctx ends first its error is returned, and the server ends in the background.
func (b *Bus) Close(ctx context.Context) error {
	b.closing.Do(func() {
		b.mu.Lock()
		b.closed = true
		conns := b.conns
		b.conns = nil
		b.mu.Unlock()
		go func() {
			defer close(b.finished)
			b.catalogue.close()
			for _, nc := range conns {
				nc.Close()
			}
			b.life.Lock()
			defer b.life.Unlock()
			<-b.halt()
		}()
	})
	select {
	case <-b.finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close bus: %w", ctx.Err())
	}
}

// URL is the address for clients, nats://127.0.0.1:port.
func (b *Bus) URL() string { return b.url }

// MaxPayload is the largest message in bytes, headers included.
func (b *Bus) MaxPayload() int64 { return int64(b.base.MaxPayload) }

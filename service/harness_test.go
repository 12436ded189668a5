package service

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

// envTestMain makes the test binary run a service by Main.
const envTestMain = "FAIRLEAD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envTestMain) != "" {
		testMain()
		return
	}
	// net/http waits for half a second after it has cut a body off.
	await.Goroutines(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// logBuffer keeps the lines of a log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// records returns the lines with that message.
func (l *logBuffer) records(tb testing.TB, msg string) []map[string]any {
	tb.Helper()
	var out []map[string]any
	for line := range strings.Lines(l.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			tb.Fatalf("log line is no JSON: %s", line)
		}
		if r["msg"] == msg {
			out = append(out, r)
		}
	}
	return out
}

// startBus starts a NATS server on a port, -1 for any.
func startBus(tb testing.TB, opts server.Options) *server.Server {
	tb.Helper()
	if opts.Port == 0 {
		opts.Port = -1
	}
	opts.Host = "127.0.0.1"
	opts.NoLog, opts.NoSigs = true, true
	srv, err := server.NewServer(&opts)
	if err != nil {
		tb.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(await.Patience) {
		tb.Fatal("bus is not ready")
	}
	tb.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv
}

func busConn(tb testing.TB, srv *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(srv.ClientURL(), append(opts, nats.Timeout(await.Patience))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

var (
	testPublic, testPrivate = func() (ed25519.PublicKey, ed25519.PrivateKey) {
		priv := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
		return priv.Public().(ed25519.PublicKey), priv
	}()
	testSigner = wire.NewSigner(testPrivate, "commerce")
)

func signed(tb testing.TB, service string) string {
	tb.Helper()
	token, err := testSigner.Sign(Identity{Subject: "user-1", Roles: []string{"analyst"}, Service: service})
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// instance is a service under test.
type instance struct {
	log    *logBuffer
	socket string
	svc    *Service
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// testEnv is the environment of a service on srv, which may be nil.
func testEnv(tb testing.TB, srv *server.Server, name string) map[string]string {
	tb.Helper()
	env := map[string]string{
		wire.EnvSystem:      "commerce",
		wire.EnvService:     name,
		wire.EnvInstance:    name + "-1",
		wire.EnvIdentityKey: wire.EncodeKey(testPublic),
		wire.EnvGrace:       await.Patience.String(),
		envLogLevel:         "debug",
		wire.EnvSocket:      filepath.Join(tb.TempDir(), "s"),
	}
	if srv != nil {
		env[wire.EnvNATSURL] = srv.ClientURL()
		env[wire.EnvNATSInbox] = "_FL." + name + "." + name + "-1"
	}
	return env
}

// launch begins to run a service.
func launch(tb testing.TB, env map[string]string, setup func(*Service) error) *instance {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{log: &logBuffer{}, socket: env[wire.EnvSocket], cancel: cancel, done: make(chan struct{})}
	around := surroundings{
		lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		environ: func() (out []string) {
			for k, v := range env {
				out = append(out, k+"="+v)
			}
			return out
		},
		log: i.log,
	}
	go func() {
		defer close(i.done)
		i.err = run(ctx, around, func(s *Service) error {
			i.svc = s
			return setup(s)
		})
	}()
	tb.Cleanup(func() {
		cancel()
		<-i.done
	})
	return i
}

// start is launch until the service runs.
func start(tb testing.TB, env map[string]string, setup func(*Service) error) *instance {
	tb.Helper()
	i := launch(tb, env, setup)
	await.Until(tb, "service runs", func() bool {
		select {
		case <-i.done:
			tb.Fatalf("service ended: %v\n%s", i.err, i.log)
		default:
		}
		return strings.Contains(i.log.String(), `"service runs"`)
	})
	return i
}

// stop stops a service and returns how it ended.
func (i *instance) stop() error {
	i.cancel()
	<-i.done
	return i.err
}

// client is an HTTP client for the service's socket.
func (i *instance) client(tb testing.TB) *http.Client {
	tb.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", i.socket)
	}}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: await.Patience}
}

// result is a reply on the bus as text: the body, or "status text".
func result(m *nats.Msg, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case m.Header[wire.HeaderErrorCode] != nil:
		return m.Header[wire.HeaderErrorCode][0] + " " + m.Header[wire.HeaderError][0]
	case m.Header[wire.HeaderStatus] != nil || m.Header[wire.HeaderType] != nil:
		return fmt.Sprintf("%s %s %s", m.Header.Get(wire.HeaderStatus), m.Header.Get(wire.HeaderType), m.Data)
	}
	return string(m.Data)
}

func request(nc *nats.Conn, subject, body string, header ...string) (*nats.Msg, error) {
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i+1 < len(header); i += 2 {
		m.Header[header[i]] = append(m.Header[header[i]], header[i+1])
	}
	return nc.RequestMsg(m, await.Patience)
}

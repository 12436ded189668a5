package bus

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/test/await"
)

// childDir names the store of the child process that publishes and waits to be
// killed.
const childDir = "FAIRLEAD_TEST_BUS_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(context.Background(), dir))
		os.Exit(1)
	}
	if dir := os.Getenv(burstDir); dir != "" {
		fmt.Fprintln(os.Stderr, burst(context.Background(), dir))
		os.Exit(1)
	}
	if dir := os.Getenv(fullDir); dir != "" {
		if err := fullDisk(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	await.Goroutines(m)
}

// child publishes to a stream, tells the sequence of each message that was
// acknowledged, and goes on until it is killed.
func child(ctx context.Context, dir string) error {
	b, err := Open(ctx, Options{Dir: dir, System: "child"})
	if err != nil {
		return err
	}
	nc, err := b.Operator("child")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		return err
	}
	for i := 1; ; i++ {
		ack, err := js.Publish(ctx, "s", []byte(strconv.Itoa(i)))
		if err != nil {
			return err
		}
		fmt.Println(ack.Sequence)
	}
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last uint64
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if last, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Errorf("child said %q", lines.Text())
		}
		if last == 50 {
			// It holds the store, and says so to others.
			_, err := Open(t.Context(), Options{Dir: dir})
			if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("by process %d", cmd.Process.Pid)) {
				t.Errorf("open beside the child: %v", err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait()
	if last < 50 {
		t.Fatalf("child was done after %d messages", last)
	}

	b, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, b)
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= last; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil || string(m.Data) != strconv.FormatUint(seq, 10) {
			t.Fatalf("acknowledged message %d of %d: %v, %v", seq, last, m, err)
		}
	}
}

func TestOneServerPerStore(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Options{Dir: dir})
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	if want := fmt.Sprintf("by process %d", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want %q in it", err, want)
	}
	shut(t, first)
	again, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatalf("open after close: %v", err)
	}
	shut(t, again)
}

func TestOpenRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	blocked := t.TempDir()
	if err := os.WriteFile(filepath.Join(blocked, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"no folder", Options{}, "folder of the store is missing"},
		{"folder is a file", Options{Dir: file}, "not a directory"},
		{"store cannot be made", Options{Dir: blocked}, "JetStream"},
		{"every interface", Options{Dir: t.TempDir(), Listen: "0.0.0.0:0"}, "must be a loopback address"},
		{"no host", Options{Dir: t.TempDir(), Listen: ":4222"}, "must be a loopback address"},
		{"outside", Options{Dir: t.TempDir(), Listen: "192.0.2.1:4222"}, "must be a loopback address"},
		{"no port", Options{Dir: t.TempDir(), Listen: "127.0.0.1"}, "missing port"},
		{"port too large", Options{Dir: t.TempDir(), Listen: "127.0.0.1:65536"}, "port must be 0 to 65535"},
		{"port in use", Options{Dir: t.TempDir(), Listen: taken.Addr().String()}, "address already in use"},
		{"payload too large", Options{Dir: t.TempDir(), MaxPayload: 65 << 20}, "max payload"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Open(t.Context(), c.o)
			if err == nil {
				shut(t, b)
				t.Fatal("opened")
			}
			if !strings.HasPrefix(err.Error(), "open bus: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
			if c.o.Dir != "" && c.o.Dir != file {
				f, err := lockStore(c.o.Dir)
				if err != nil {
					t.Errorf("store is locked still: %v", err)
				} else {
					f.Close()
				}
			}
		})
	}
}

func TestAddressStaysAcrossReloads(t *testing.T) {
	b := open(t, shop())
	before := b.URL()
	for i := range 3 {
		c := issue(t, b, "auth", fmt.Sprintf("auth-%d", i))
		if c.URL != before || b.URL() != before {
			t.Errorf("address %s became %s", before, c.URL)
		}
		dial(t, c)
	}
	if !strings.HasPrefix(before, "nats://127.0.0.1:") {
		t.Errorf("address %s", before)
	}
}

func TestMaxPayload(t *testing.T) {
	for _, limit := range []int32{0, 64 << 10} {
		b, err := Open(t.Context(), Options{Dir: t.TempDir(), MaxPayload: limit})
		if err != nil {
			t.Fatal(err)
		}
		want := int64(limit)
		if want == 0 {
			want = 1 << 20
		}
		if b.MaxPayload() != want {
			t.Errorf("limit %d, want %d", b.MaxPayload(), want)
		}
		if err := b.Apply(shop()); err != nil {
			t.Fatal(err)
		}
		nc := dial(t, issue(t, b, "auth", "auth-1"))
		if nc.MaxPayload() != want {
			t.Errorf("client is told %d, want %d", nc.MaxPayload(), want)
		}
		if err := nc.Publish("x", make([]byte, want+1)); !errors.Is(err, nats.ErrMaxPayload) {
			t.Errorf("message above the limit: %v", err)
		}
		shut(t, b)
	}
}

func TestClosed(t *testing.T) {
	b := open(t, shop())
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	issue(t, b, "auth", "auth-1")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { shut(t, b) })
	}
	wg.Wait()
	if !nc.IsClosed() {
		t.Error("a connection that the bus gave out is open")
	}
	for what, do := range map[string]func() error{
		"issue":      func() error { _, err := b.Issue("auth", "auth-2"); return err },
		"apply":      func() error { return b.Apply(shop()) },
		"revoke":     func() error { return b.Revoke("auth-1") },
		"drain":      func() error { _, err := b.Drain("auth-1"); return err },
		"registered": func() error { _, err := b.Registered("auth-1"); return err },
		"operator":   func() error { _, err := b.Operator("late"); return err },
		"gateway":    func() error { _, err := b.Gateway(); return err },
	} {
		if err := do(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCloseIsBounded(t *testing.T) {
	b := open(t, shop())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// It may have ended that fast; if not, the context's error is told.
	if err := b.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	shut(t, b)
}

// TestStartStop: open and close again and again, with instances coming, leave
// nothing behind and never stick.
func TestStartStop(t *testing.T) {
	dir := t.TempDir()
	for range 5 {
		b, err := Open(t.Context(), Options{Dir: dir, System: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Apply(shop()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					id := fmt.Sprintf("auth-%d-%d", i, n)
					if _, err := b.Issue("auth", id); err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Error(err)
						}
						return
					}
					b.Registered(id)
					b.Drain(id)
				}
			})
		}
		nc, err := b.Gateway()
		if err != nil {
			t.Fatal(err)
		}
		nc.Flush()
		shut(t, b)
		wg.Wait()
	}
}

// sink collects a log.
type sink struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func TestLog(t *testing.T) {
	var out sink
	b, err := Open(t.Context(), Options{
		Dir: t.TempDir(), System: "test",
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, b)
	if err := b.Apply(shop()); err != nil {
		t.Fatal(err)
	}
	c := issue(t, b, "auth", "auth-1")
	for range 3 {
		if nc, err := nats.Connect(c.URL, nats.Timeout(await.Patience), nats.UserInfo(c.User, "wrong-"+c.Password)); err == nil {
			nc.Close()
			t.Error("wrong password")
		}
		refused(t, c, publish("model.tree"))
	}
	if err := b.Revoke("auth-1"); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, secret := range []string{c.Password, b.operator.Password, b.tools.Password, b.gateway.Password} {
		if strings.Contains(text, secret) {
			t.Error("a password is in the log")
		}
	}
	for what, want := range map[string]int{
		`msg="bus server notice"`: -1,
		"authentication error":    1,
		"Publish Violation":       1,
		"level=ERROR":             0,
		"Plaintext":               0,
	} {
		if got := strings.Count(text, what); got != want && (want >= 0 || got == 0) {
			t.Errorf("%q is logged %d times, want %d", what, got, want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestServerLogForgets(t *testing.T) {
	l := newServerLog(slog.New(slog.DiscardHandler), func() {}, func(string) {})
	for i := range 10 * remembered {
		if text := strconv.Itoa(i); !l.fresh(text) || l.fresh(text) {
			t.Fatalf("message %s", text)
		}
	}
	if len(l.seen) > remembered {
		t.Errorf("%d messages remembered", len(l.seen))
	}
	l.seen["old"] = time.Now().Add(-2 * quiet)
	if !l.fresh("old") {
		t.Error("a message is quiet for ever")
	}
	l.Fatalf("first %d", 1)
	l.Fatalf("second")
	if got := l.reason(); got != "first 1" {
		t.Errorf("reason %q", got)
	}
}

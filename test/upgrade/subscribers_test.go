package upgrade_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/control"
	"fairlead/test/await"
	"fairlead/test/stage"
)

const liveText = `
system: live
gateway: {listen: "LISTEN"}
services:
  echo: {command: [SELF, part, echo, 50ms], bus: {group: echo, answers: ["echo.>"]}}
  reports: {external: ["REPORTS"]}
queues: {"data.*": {}, "more.>": {}}
routes:
  /live: {subscribe: "data.*", heartbeat: 1s}
  /both/{kind}: {subscribe: "more.{kind}"}
  /fairlead.js: {monitor: client}
  /report: {service: reports}
  /: {files: "DIR/page"}
`

// newLive starts a system with subscribe routes; what pages report goes to a handler.
func newLive(t *testing.T, report http.HandlerFunc) *world {
	t.Helper()
	reports := httptest.NewServer(report)
	t.Cleanup(reports.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	_ = l.Close() // for the door
	w := &world{stage.New(t, one, liveText, "LISTEN", listen, "REPORTS", reports.Listener.Addr().String())}
	if err := os.Mkdir(w.Path("page"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	w.start()
	return w
}

// publisher publishes 1, 2, 3, ... and knows what was stored.
type publisher struct {
	w    *world
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex
	last int
}

// publish begins to publish on subjects in turn, a number at least each pause.
func (w *world) publish(pause time.Duration, subjects ...string) *publisher {
	p := &publisher{w: w, stop: make(chan struct{}), done: make(chan struct{})}
	go p.run(pause, subjects)
	return p
}

func (p *publisher) run(pause time.Duration, subjects []string) {
	defer close(p.done)
	var nc *nats.Conn
	defer func() {
		if nc != nil {
			nc.Close()
		}
	}()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 1; ; {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		if nc == nil {
			var err error
			if nc, err = p.dial(); err != nil {
				nc = nil
				continue
			}
		}
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err = js.Publish(ctx, subjects[n%len(subjects)], []byte(strconv.Itoa(n)), jetstream.WithMsgID(strconv.Itoa(n)), jetstream.WithRetryAttempts(0))
		cancel()
		if err != nil { // it may be stored: the id keeps it from being so twice
			nc.Close()
			nc = nil
			continue
		}
		p.mu.Lock()
		p.last = n
		p.mu.Unlock()
		n++
	}
}

// dial connects as the operator's tools do; after a crash the credentials are others.
func (p *publisher) dial() (*nats.Conn, error) {
	env, err := os.ReadFile(filepath.Join(p.w.Dir, control.DataDir, "operator.env"))
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(env)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[name] = value
	}
	return nats.Connect(vars["NATS_URL"], nats.Timeout(await.Patience), nats.UserInfo(vars["NATS_USER"], vars["NATS_PASSWORD"]), nats.MaxReconnects(0))
}

func (p *publisher) end() int {
	close(p.stop)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// heard is what a subscriber was told, over all its connections.
type heard struct {
	name string

	mu      sync.Mutex
	cursor  string
	numbers []int
	gaps    int
	links   int
}

func (h *heard) take(event, cursor string, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cursor != "" {
		h.cursor = cursor
	}
	switch event {
	case "hello":
		h.links++
	case "gap":
		h.gaps++
	case "message":
		var m struct{ Data int }
		_ = json.Unmarshal(body, &m)
		h.numbers = append(h.numbers, m.Data)
	}
}

// follow subscribes, again and again, until ctx ends.
func (h *heard) follow(ctx context.Context, door, path string, socket bool) {
	for ctx.Err() == nil {
		h.mu.Lock()
		url := door + path + "&cursor=" + h.cursor
		h.mu.Unlock()
		if socket {
			h.socket(ctx, strings.Replace(url, "http", "ws", 1))
		} else {
			h.events(ctx, url)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rand.IntN(50)) * time.Millisecond): // as clients do
		}
	}
}

func (h *heard) socket(ctx context.Context, url string) {
	c, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			return
		}
		var e struct{ Event, Cursor string }
		_ = json.Unmarshal(b, &e)
		h.take(e.Event, e.Cursor, b)
	}
}

func (h *heard) events(ctx context.Context, url string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return
	}
	defer res.Body.Close()
	event, cursor := "message", ""
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			event = value
		case "id":
			cursor = value
		case "data":
			h.take(event, cursor, []byte(value))
			event, cursor = "message", ""
		}
	}
}

// wrong says what a subscriber was not told, or twice, or in another order.
func (h *heard) wrong(want func(n int) bool, last int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gaps > 0 {
		return "it was told of a gap"
	}
	i := 0
	for n := 1; n <= last; n++ {
		if !want(n) {
			continue
		}
		if i >= len(h.numbers) {
			return fmt.Sprintf("%d and all after it are missing", n)
		}
		if h.numbers[i] != n {
			return fmt.Sprintf("after %d others it was told %d instead of %d", i, h.numbers[i], n)
		}
		i++
	}
	return ""
}

// TestSubscribersComeBack has subscribers of all kinds go on through upgrades, a reload
// that changes their route, and kill -9: each is told each message once.
func TestSubscribersComeBack(t *testing.T) {
	t.Parallel()
	w := newLive(t, func(http.ResponseWriter, *http.Request) {})
	ctx, cancel := context.WithCancel(t.Context())
	all := func(int) bool { return true }
	odd := func(n int) bool { return n%2 == 1 }
	type subscriber struct {
		*heard

		want func(int) bool
	}
	var list []subscriber
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for i := range 12 {
		kind := []struct {
			name, path string
			socket     bool
			want       func(int) bool
		}{
			{"a WebSocket", "/live?", true, all},
			{"events", "/live?", false, all},
			{"a narrow WebSocket", "/live?subject=data.b", true, odd},
		}[i%3]
		h := &heard{name: kind.name}
		list = append(list, subscriber{h, kind.want})
		door := w.URL
		clients.Go(func() { h.follow(ctx, door, kind.path, kind.socket) })
	}
	await.Until(t, "all are connected", func() bool {
		for _, s := range list {
			s.mu.Lock()
			n := s.links
			s.mu.Unlock()
			if n == 0 {
				return false
			}
		}
		return true
	})
	p := w.publish(time.Millisecond, "data.a", "data.b")
	reached := func(n int) {
		t.Helper()
		p.mu.Lock()
		from := p.last
		p.mu.Unlock()
		await.Until(t, "more is published", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.last >= from+n
		})
	}
	reached(200)
	for _, binary := range []string{two, one} {
		if _, err := w.upgrade(binary); err != nil {
			t.Fatal(err)
		}
		w.Ready()
		reached(200)
	}
	w.Write("fairlead.yaml", strings.Replace(w.Read("fairlead.yaml"), "heartbeat: 1s", "heartbeat: 2s", 1))
	if code, out := w.Command("reload"); code != 0 {
		t.Fatal(out)
	}
	reached(200)
	st := w.Ready()
	_ = syscall.Kill(st.PID, syscall.SIGKILL) // the stand-in ends with it
	w.Wait()
	await.Until(t, "nothing is left", func() bool { return len(w.Processes()) == 0 })
	w.start()
	reached(200)
	last := p.end()
	for i, s := range list {
		problem := ""
		await.Until(t, "subscriber "+strconv.Itoa(i)+", "+s.name+", has been told everything", func() bool {
			problem = s.wrong(s.want, last)
			return !strings.Contains(problem, "missing")
		})
		if problem != "" {
			t.Errorf("%s: %s", s.name, problem)
		}
		if s.links < 5 {
			t.Errorf("%s: it had %d connections", s.name, s.links)
		}
	}
	t.Logf("%d messages, %d subscribers", last, len(list))
}

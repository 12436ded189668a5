package chaos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"fairlead/test/await"
)

// load is what clients do meanwhile, and what became of it.
type load struct {
	plain, secure string // URLs of the door
	roots         *x509.CertPool
	// now says what is being changed, for the report.
	now func() string
	// mayBreak says whether something that may not be repeated was on an instance
	// that was killed between these two moments.
	mayBreak func(begin, end time.Time) bool
	// mayEnd says whether the live service itself was changed, or fairlead, between
	// these two moments, so that a conversation may be ended properly.
	mayEnd func(begin, end time.Time) bool

	stop    context.CancelFunc
	tasks   sync.WaitGroup
	counts  sync.Map // kind -> *atomic.Int64
	longest atomic.Int64

	mu     sync.Mutex // guards the fields below
	failed []string
	broken int // what a kill may break
	ended  int // conversations that ended properly for a change of their own
}

func (l *load) count(kind string) {
	n, _ := l.counts.LoadOrStore(kind, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

func (l *load) fail(kind string, begin time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Sprintf("%s %s, begun %s before, during %s: %v",
		time.Now().Format("15:04:05.000"), kind, time.Since(begin).Round(time.Millisecond), l.now(), err))
}

// run starts the clients; the returned function ends them.
func (l *load) run(ctx context.Context) func() {
	ctx, l.stop = context.WithCancel(ctx)
	config := &tls.Config{RootCAs: l.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	h1 := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 8, TLSClientConfig: config.Clone(), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}
	h2 := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}}
	for i := range 3 {
		l.loop(ctx, fmt.Sprint("GET ", i), func() error { return l.ask(ctx, h1, "GET", l.plain+"/web/x", "") })
		l.loop(ctx, fmt.Sprint("POST ", i), func() error { return l.ask(ctx, h1, "POST", l.plain+"/web/x", fmt.Sprint("body ", i)) })
		l.loop(ctx, fmt.Sprint("GET, bus ", i), func() error { return l.ask(ctx, h1, "GET", l.plain+"/bus?a=b", "") })
		l.loop(ctx, fmt.Sprint("GET, HTTP/2 ", i), func() error { return l.ask(ctx, h2, "GET", l.secure+"/web/x", "") })
	}
	l.loop(ctx, "GET, TLS", func() error { return l.ask(ctx, h1, "GET", l.secure+"/web/x", "") })
	l.loop(ctx, "GET, slow", func() error { return l.ask(ctx, h1, "GET", l.plain+"/web/x?wait=300ms", "") })
	l.loop(ctx, "POST, HTTP/2", func() error { return l.ask(ctx, h2, "POST", l.secure+"/web/x", strings.Repeat("large ", 20_000)) })
	l.loop(ctx, "POST, bus", func() error { return l.ask(ctx, h1, "POST", l.plain+"/bus", `{"a":"b"}`) })
	for i := range 6 {
		l.talk(ctx, fmt.Sprint("WebSocket ", i), l.chat)
	}
	for i := range 3 {
		l.talk(ctx, fmt.Sprint("events ", i), l.listen)
	}
	return func() {
		l.stop()
		l.tasks.Wait()
	}
}

// loop does one request after the other, some hundred a second.
func (l *load) loop(ctx context.Context, kind string, do func() error) {
	l.tasks.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			begin := time.Now()
			err := do()
			took := time.Since(begin)
			for old := l.longest.Load(); int64(took) > old && !l.longest.CompareAndSwap(old, int64(took)); old = l.longest.Load() {
			}
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				l.count(strings.TrimRight(kind, " 0123456789"))
			case strings.HasPrefix(kind, "POST") && l.mayBreak(begin, time.Now()):
				l.mu.Lock()
				l.broken++
				l.mu.Unlock()
			default:
				l.fail(kind, begin, err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

func (l *load) ask(ctx context.Context, c *http.Client, method, url, body string) error {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, got)
	}
	if strings.Contains(url, "/web/") && string(got) != method+" "+body {
		return fmt.Errorf("another answer: %.80q", got)
	}
	return nil
}

// talk holds one conversation after the other. One that ends without a change of
// its own is a failure.
func (l *load) talk(ctx context.Context, kind string, hold func(context.Context, func()) error) {
	l.tasks.Go(func() {
		for ctx.Err() == nil {
			begin := time.Now()
			err := hold(ctx, func() { l.count(strings.TrimRight(kind, " 0123456789")) })
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, errGone) && l.mayEnd(begin, time.Now()) {
				l.mu.Lock()
				l.ended++
				l.mu.Unlock()
				continue
			}
			l.fail(kind, begin, err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
}

// errGone is the proper end of a conversation: 1001 or a clean end.
var errGone = errors.New("ended properly")

func (l *load) chat(ctx context.Context, count func()) error {
	c, resp, err := websocket.Dial(ctx, strings.Replace(l.plain, "http", "ws", 1)+"/ws", nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	defer c.CloseNow()
	for i := 0; ; i++ {
		text := fmt.Appendf(nil, "message %d", i)
		if err := c.Write(ctx, websocket.MessageText, text); err != nil {
			return gone(err)
		}
		bound, cancel := context.WithTimeout(ctx, await.Patience)
		_, got, err := c.Read(bound)
		cancel()
		if err != nil {
			return gone(err)
		}
		if !bytes.Equal(got, text) {
			return fmt.Errorf("message %d came back as %q", i, got)
		}
		count()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func gone(err error) error {
	if websocket.CloseStatus(err) == websocket.StatusGoingAway {
		return errGone
	}
	return err
}

func (l *load) listen(ctx context.Context, count func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.plain+"/events", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("events: %s", resp.Status)
	}
	next := 0
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return errGone
		}
		if err != nil {
			return err
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if strings.TrimSpace(data) != fmt.Sprint(next) {
				return fmt.Errorf("event %d is %q", next, data)
			}
			next++
			count()
		}
	}
}

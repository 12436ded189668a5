package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// soakTime is how long the soak takes, soakEvery how often memory is looked at.
const (
	soakTime  = 10 * time.Minute
	soakEvery = time.Minute
)

// soak keeps a system under a mixed load for ten minutes, connections that come and
// go among it, while its routes are edited and its instances replaced, and looks
// whether memory, goroutines or open files grow.
func (b *bench) soak() error {
	echo := filepath.Join(b.dir, "echo")
	if out, err := exec.CommandContext(b.ctx, "go", "build", "-o", echo, "./bench/services/echo").CombinedOutput(); err != nil {
		return fmt.Errorf("build echo: %w: %s", err, out)
	}
	w := &doorway{dir: filepath.Join(b.dir, "soak"), plain: freeAddress(), tls: freeAddress(), ws: freeAddress(), backend: echo}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		return err
	}
	if err := certificate(b.ctx, w.dir); err != nil {
		return err
	}
	holder, err := b.spawn(b.self, "peer", "hold", w.ws)
	if err != nil {
		return err
	}
	defer holder.stop()
	if err := configureSoak(w, 0); err != nil {
		return err
	}
	if err := startFairlead(b, w); err != nil {
		return err
	}
	defer w.end()
	if err := w.answers("/http"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(b.ctx) // no deadline, which dialling would report as a failure
	defer cancel()
	defer time.AfterFunc(soakTime, cancel).Stop()
	var load soakLoad
	load.run(ctx, w)
	var rows []string
	begin := time.Now()
	tick := time.NewTicker(soakEvery)
	defer tick.Stop()
	change := time.NewTicker(5 * time.Second)
	defer change.Stop()
	for edits := 1; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-change.C:
			edits++
			err := configureSoak(w, edits)
			if err == nil && edits%6 == 0 {
				err = fairleadVerb(b, w, "restart", "echo")
			} else if err == nil {
				err = reloadFairlead(b, w)
			}
			if err != nil && ctx.Err() == nil {
				return err
			}
		case <-tick.C:
			row, err := load.look(w, time.Since(begin))
			if err != nil {
				return err
			}
			rows = append(rows, row)
			fmt.Fprintln(os.Stderr, row)
		}
	}
	load.tasks.Wait()
	b.table("Ten minutes", "| after | requests | failed | memory of the node (PSS) | heap in use | goroutines | open files |", rows...)
	if n := load.failed.Load(); n > 0 {
		fmt.Fprintf(b.out, "An example of a failure: %v\n\n", load.example.Load())
	}
	return nil
}

func configureSoak(w *doorway, edits int) error {
	return w.write("fairlead.yaml", fmt.Sprintf(`system: soak
gateway:
  listen: [{address: %q, tls: false}, {address: %q}]
  tls: {certificate: cert.pem, key: key.pem}
services:
  echo: {command: [%q], replicas: 2, bus: {group: echo_queue, answers: ["echo.>"]}}
  ws: {external: [%q]}
routes:
  /http: {service: echo}
  /bus: {request: echo.back}
  /ws/: {service: ws}
  GET /metrics: {monitor: metrics, allow: [127.0.0.1]}
  GET /edit%d/{id}: {service: echo}
`, w.plain, w.tls, w.backend, w.ws, edits))
}

func fairleadVerb(b *bench, w *doorway, args ...string) error {
	out, err := exec.CommandContext(b.ctx, b.fairlead, append([]string{"--file", w.dir}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fairlead %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// soakLoad is some hundred requests a second of every kind.
type soakLoad struct {
	tasks         sync.WaitGroup
	count, failed atomic.Int64
	example       atomic.Value
}

func (l *soakLoad) run(ctx context.Context, w *doorway) {
	kept := &http.Client{Timeout: 30 * time.Second}
	fresh := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	secure := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	body := string(payload(1024))
	for range 4 {
		l.loop(ctx, 10*time.Millisecond, func() error { return soakAsk(ctx, kept, "GET", "http://"+w.plain+"/http", "") })
		l.loop(ctx, 20*time.Millisecond, func() error { return soakAsk(ctx, kept, "POST", "http://"+w.plain+"/bus", body) })
		l.loop(ctx, 20*time.Millisecond, func() error { return soakAsk(ctx, fresh, "GET", "http://"+w.plain+"/http", "") })
		l.loop(ctx, 20*time.Millisecond, func() error { return soakAsk(ctx, secure, "POST", "https://"+w.tls+"/http", body) })
		l.loop(ctx, 50*time.Millisecond, func() error { return soakLeave(ctx, w) })
	}
	for range 100 {
		l.loop(ctx, time.Second, func() error { return soakHold(ctx, w) })
	}
}

func (l *soakLoad) loop(ctx context.Context, every time.Duration, do func() error) {
	l.tasks.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := do()
			if ctx.Err() != nil {
				return
			}
			l.count.Add(1)
			if err != nil {
				l.failed.Add(1)
				l.example.Store(err.Error())
			}
		}
	})
}

func soakAsk(ctx context.Context, c *http.Client, method, url, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return nil
}

// soakLeave asks and leaves before the answer.
func soakLeave(ctx context.Context, w *doorway) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.plain)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "POST /http HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\nhalf", w.plain)
	_ = c.Close()
	return err
}

// soakHold has a WebSocket open for some seconds.
func soakHold(ctx context.Context, w *doorway) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.plain)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET /ws/ HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", w.plain); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 101") {
		return fmt.Errorf("WebSocket: %q: %w", line, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
	}
	return nil
}

// look reads what must not grow.
func (l *soakLoad) look(w *doorway, at time.Duration) (string, error) {
	resp, err := http.Get("http://" + w.plain + "/metrics") //nolint:noctx // of this machine
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var v float64
		if name, rest, ok := strings.Cut(lines.Text(), " "); ok {
			if _, err := fmt.Sscanf(rest, "%g", &v); err == nil {
				values[name] = v
			}
		}
	}
	pid := w.cmd.Process.Pid
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("| %s | %d | %d | %.1f MiB | %.1f MiB | %.0f | %d |", at.Round(time.Second), l.count.Load(), l.failed.Load(),
		proportional(pid), values["go_memstats_heap_inuse_bytes"]/(1<<20), values["go_goroutines"], len(files)), nil
}

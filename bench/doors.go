package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// door is one of the gateways that are compared: each proxies /r0/ to /r<n-1>/ to
// the same backend, and /ws/ to the one that upgrades.
type door struct {
	name string
	// start runs it with the configuration that configure has written.
	start func(b *bench, w *doorway) error
	// configure writes a configuration with as many routes, and those to more besides.
	configure func(w *doorway, routes int, more []string) error
	// reload makes the written configuration count, in the way of the door's own that
	// starts no program; it need not wait for that.
	reload func(b *bench, w *doorway) error
	// pause is what the door needs after a change before it takes another.
	pause time.Duration
}

// doorway is a door that runs.
type doorway struct {
	*process
	dir     string
	plain   string // address without TLS
	tls     string // address with TLS
	admin   string // address of its API, where it has one over TCP
	backend string // address of what is behind it
	ws      string // address of what upgrades
	pids    func() []int
	end     func()
}

// changes: the part of doors that is about changes, alone.
func (b *bench) changes() error { return b.besides(b.compareChanges) }

// doors: the same routes through nginx, HAProxy, Caddy and fairlead. The others log
// nothing; fairlead writes its access log as always.
func (b *bench) doors() error { return b.besides(b.compare) }

// besides runs a comparison for few and for many routes.
func (b *bench) besides(compare func(ways []*doorway, routes int) error) error {
	for _, program := range []string{"nginx", "haproxy", "caddy", "wrk", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is needed: %w", program, err)
		}
	}
	backend, stop, err := b.backend()
	if err != nil {
		return err
	}
	defer stop()
	ws := freeAddress()
	holder, err := b.spawn(b.self, "peer", "hold", ws)
	if err != nil {
		return err
	}
	defer holder.stop()
	if err := waitTCP(ws); err != nil {
		return err
	}
	for _, routes := range []int{30, mostRoutes} {
		if err := b.open(backend, ws, routes, compare); err != nil {
			return err
		}
	}
	return nil
}

// shapes of the load on doors.
var shapes = []struct {
	name, path string
	tls        bool
}{
	{"280 B", "/r7/small", false},
	{"1 MB", "/r7/large", false},
	{"280 B, TLS", "/r7/small", true},
	{"1 MB, TLS", "/r7/large", true},
}

// all are the doors. HAProxy's master misses a signal that comes during a reload; Caddy
// keeps the processors busy after one.
var all = []door{
	{"nginx", startNginx, configureNginx, reloadNginx, 100 * time.Millisecond},
	{"HAProxy", startHAProxy, configureHAProxy, reloadHAProxy, time.Second},
	{"Caddy", startCaddy, configureCaddy, reloadCaddy, time.Second},
	{"fairlead", startFairlead, configureFairlead, reloadFairlead, 100 * time.Millisecond},
}

// open runs all doors while they are compared.
func (b *bench) open(backend, ws string, routes int, compare func(ways []*doorway, routes int) error) error {
	ways := make([]*doorway, len(all))
	for i, d := range all {
		dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", d.name, routes))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		ways[i] = &doorway{dir: dir, plain: freeAddress(), tls: freeAddress(), admin: freeAddress(), backend: backend, ws: ws, end: func() {}}
		if err := certificate(b.ctx, dir); err != nil {
			return err
		}
		if err := d.configure(ways[i], routes, nil); err != nil {
			return err
		}
		if err := d.start(b, ways[i]); err != nil {
			return fmt.Errorf("start %s: %w", d.name, err)
		}
		defer ways[i].end()
		if err := ways[i].answers("/r7/small"); err != nil {
			return fmt.Errorf("start %s: %w", d.name, err)
		}
	}
	return compare(ways, routes)
}

// compare measures all doors in turn, so that noise meets all of them.
func (b *bench) compare(ways []*doorway, routes int) error {
	idle := make([]string, len(all))
	for i, d := range all {
		var err error
		if idle[i], err = ways[i].idle(); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	var rows []string
	for _, shape := range shapes {
		sums := make([]doorSum, len(all))
		for range b.rounds {
			for i, w := range ways {
				if err := sums[i].measure(b, w, shape.path, shape.tls); err != nil {
					return fmt.Errorf("%s, %s: %w", all[i].name, shape.name, err)
				}
			}
		}
		for i, d := range all {
			rows = append(rows, fmt.Sprintf("| %s | %s | %.0f/s | %.2f | %.2f | %.0f us | %s | %s | %d |", shape.name, d.name,
				median(sums[i].rate), ratio(sums[i].rate, sums[0].rate), ratio(sums[i].rate, sums[2].rate),
				median(sums[i].each), short(median(sums[i].p50)), short(median(sums[i].p99)), sums[i].failed))
		}
	}
	b.table(fmt.Sprintf("Doors, %d routes", routes), "| load, 64 connections | door | throughput | to nginx | to Caddy | processor time of the door for a request | p50 | p99 | failed |", rows...)
	rows = nil
	for i, d := range all {
		rows = append(rows, fmt.Sprintf("| %s | %.1f MiB | %s |", d.name, ways[i].resident(), idle[i]))
	}
	b.table(fmt.Sprintf("Doors at rest, %d routes", routes), "| door | resident memory after the load | of an idle keep-alive connection | of an idle WebSocket |", rows...)
	return b.compareChanges(ways, routes)
}

// compareChanges measures in turn how long a changed route takes to be effective.
func (b *bench) compareChanges(ways []*doorway, routes int) error {
	took := make([][]time.Duration, len(all))
	for range changes {
		for i, d := range all {
			t, err := b.change(d, ways[i], routes, len(took[i]))
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			took[i] = append(took[i], t)
		}
	}
	var rows []string
	for i, d := range all {
		slices.Sort(took[i])
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s |", d.name, short(median(took[i])), short(took[i][changes*99/100-1]), short(took[i][changes-1])))
	}
	b.table(fmt.Sprintf("Doors in change, %d routes, %d changes", routes, changes), "| door | another route effective after, median | p99 | longest |", rows...)
	return nil
}

// change replaces one route by another, and tells how long after the call of the reload
// the new one is answered.
func (b *bench) change(d door, w *doorway, routes, n int) (time.Duration, error) {
	name := fmt.Sprintf("new%d", n)
	if err := d.configure(w, routes, []string{name}); err != nil {
		return 0, err
	}
	reloaded := make(chan error, 1)
	begin := time.Now()
	go func() { reloaded <- d.reload(b, w) }()
	at, err := w.until("/"+name+"/small", 30*time.Second)
	if err := errors.Join(err, <-reloaded); err != nil {
		return 0, err
	}
	time.Sleep(d.pause)
	return at.Sub(begin), nil
}

// doorSum collects the rounds of one door.
type doorSum struct {
	rate, each []float64
	p50, p99   []time.Duration
	failed     int
}

func ratio(a, b []float64) float64 {
	var r []float64
	for i := range a {
		r = append(r, a[i]/b[i])
	}
	return median(r)
}

func (s *doorSum) measure(b *bench, w *doorway, path string, tls bool) error {
	url := "http://" + w.plain + path
	if tls {
		url = "https://" + w.tls + path
	}
	before := w.spent()
	out, err := exec.CommandContext(b.ctx, "wrk", "-t2", "-c64", "-d"+strconv.Itoa(int(b.length.Seconds()))+"s", "--latency", url).CombinedOutput()
	if err != nil {
		return fmt.Errorf("wrk: %w: %s", err, out)
	}
	used := w.spent() - before
	count := 0.0
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "50%":
			d, err := time.ParseDuration(f[1])
			if err != nil {
				return err
			}
			s.p50 = append(s.p50, d)
		case len(f) == 2 && f[0] == "99%":
			d, err := time.ParseDuration(f[1])
			if err != nil {
				return err
			}
			s.p99 = append(s.p99, d)
		case strings.Contains(line, " requests in "):
			count, _ = strconv.ParseFloat(f[0], 64)
		case strings.HasPrefix(line, "Requests/sec:"):
			rate, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return err
			}
			s.rate = append(s.rate, rate)
		case strings.Contains(line, "Non-2xx"), strings.Contains(line, "Socket errors"):
			fmt.Fprintln(os.Stderr, w.plain, strings.TrimSpace(line))
			s.failed++
		}
	}
	if count == 0 {
		return fmt.Errorf("wrk did nothing: %s", out)
	}
	s.each = append(s.each, used*1e6/count)
	return nil
}

// spent sums the processor seconds of a door's processes.
func (w *doorway) spent() (sum float64) {
	for _, pid := range w.pids() {
		sum += cpu(pid)
	}
	return sum
}

func (w *doorway) resident() (sum float64) {
	for _, pid := range w.pids() {
		sum += proportional(pid)
	}
	return sum
}

// answers waits until a path is answered with 2xx.
func (w *doorway) answers(path string) error {
	_, err := w.until(path, 30*time.Second)
	return err
}

// until asks for a path again and again until the answer is 2xx, and says when.
func (w *doorway) until(path string, most time.Duration) (time.Time, error) {
	var last error
	for end := time.Now().Add(most); time.Now().Before(end); {
		if last = w.ask(path); last == nil {
			return time.Now(), nil
		}
		pause := unix.NsecToTimespec(askPause.Nanoseconds())
		_ = unix.Nanosleep(&pause, nil) // time.Sleep takes a millisecond at least in a program that rests
	}
	return time.Time{}, last
}

// ask asks for a path on a connection of its own, as one that is kept may belong to a
// process of before a change, and takes no more of the processors than it must. The
// answer must be the backend's: Caddy answers 200 by itself where it has no route.
func (w *doorway) ask(path string) error {
	c, err := net.DialTimeout("tcp", w.plain, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, w.plain); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(c, 4<<10))
	if err != nil {
		return err
	}
	head, body, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 2")) || len(body) == 0 {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		return fmt.Errorf("%s is answered %s, with %d bytes", path, line, len(body))
	}
	return nil
}

const (
	// askPause is between two looks whether a change is effective.
	askPause = 500 * time.Microsecond

	idleConnections = 5000
	idleWebSockets  = 1000
	changes         = 100

	// fairlead's file takes 5,000 routes; that of a change and /ws/ are among them.
	mostRoutes = 5000 - 2
)

// idle measures what connections cost that do nothing, of a door that has not done
// much yet: memory that an earlier load has left would hide it.
func (w *doorway) idle() (string, error) {
	perWS, err := w.hold(idleWebSockets, "GET /ws/ HTTP/1.1\r\nHost: "+w.plain+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "HTTP/1.1 101")
	if err != nil {
		return "", fmt.Errorf("idle WebSockets: %w", err)
	}
	perConn, err := w.hold(idleConnections, "GET /r7/small HTTP/1.1\r\nHost: "+w.plain+"\r\n\r\n", "HTTP/1.1 200")
	if err != nil {
		return "", fmt.Errorf("idle connections: %w", err)
	}
	return fmt.Sprintf("%.1f KiB | %.1f KiB", perConn, perWS), nil
}

// hold opens connections, makes each do one exchange, and returns the KiB that each
// of them costs the door.
func (w *doorway) hold(n int, request, begins string) (float64, error) {
	before := w.resident()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range n {
		c, err := net.DialTimeout("tcp", w.plain, 5*time.Second)
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
		if _, err := c.Write([]byte(request)); err != nil {
			return 0, err
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		line, err := bufio.NewReaderSize(c, 512).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, begins) {
			return 0, fmt.Errorf("answered %q: %w", line, err)
		}
	}
	time.Sleep(time.Second) // what the exchange itself needed may be given back
	return (w.resident() - before) * 1024 / float64(n), nil
}

// proportional reads a process's proportional set size in MiB: memory that several
// workers share counts once.
func proportional(pid int) float64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kb / 1024
		}
	}
	return 0
}

// family lists a process and all that descend from it.
func family(root int) []int {
	pids := []int{root}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return pids
	}
	parents := map[int]int{}
	for _, path := range stats {
		if f := statFields(path); f != nil {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			parent, perr := strconv.Atoi(f[1])
			if err == nil && perr == nil {
				parents[pid] = parent
			}
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if slices.Contains(pids, parent) && !slices.Contains(pids, pid) {
				pids, grown = append(pids, pid), true
			}
		}
	}
	return pids
}

// backend is an nginx of its own that answers every path that ends in /small with
// 280 bytes, in /large with 1 MB.
func (b *bench) backend() (address string, stop func(), err error) {
	dir := filepath.Join(b.dir, "backend")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 1_000_000), 0o644); err != nil {
		return "", nil, err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return "", nil, err
	}
	address = freeAddress()
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr error;
events { worker_connections 16384; }
http {
	access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile on;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server {
		listen %[2]s backlog=4096;
		location ~ /small$ { default_type text/plain; return 200 "%[3]s"; }
		location ~ /large$ { alias %[1]s/large; default_type application/octet-stream; }
	}
}`, dir, address, strings.Repeat("x", 280))
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return "", nil, err
	}
	p, err := b.spawn("nginx", "-c", path, "-e", "stderr")
	if err != nil {
		return "", nil, err
	}
	return address, p.stop, waitTCP(address)
}

func certificate(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
		"-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", filepath.Join(dir, "key.pem"), "-out", filepath.Join(dir, "cert.pem")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make a certificate: %w: %s", err, out)
	}
	both, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	key, kerr := os.ReadFile(filepath.Join(dir, "key.pem"))
	return errors.Join(err, kerr, os.WriteFile(filepath.Join(dir, "both.pem"), append(both, key...), 0o600))
}

// peerHold upgrades whoever asks for it and then says nothing until they leave.
func peerHold(ctx context.Context, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	go func() { <-ctx.Done(); _ = l.Close() }()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil //nolint:nilerr // the end
		}
		go func() {
			defer c.Close()
			r := bufio.NewReaderSize(c, 1<<10)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
			}
			_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"))
			_, _ = r.ReadByte()
		}()
	}
}

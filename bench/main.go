// Command bench measures fairlead end to end, each figure with its peer in the
// same run, and prints the tables of bench/README.md:
//
//	go run ./bench            everything but the soak, about half an hour
//	go run ./bench bus proxy  only these
//	go run ./bench soak       ten minutes of load and changes
//
// The load stays on this machine's loopback, is bounded in time and stops by
// itself. Machines differ and are noisy: read the ratios and medians.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "peer" {
		exit(peer(os.Args[2], os.Args[3:]))
	}
	rounds := flag.Int("rounds", 5, "rounds of each pair")
	length := flag.Duration("length", 3*time.Second, "length of one side of a round")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, flag.Args(), *rounds, *length, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is one run: a folder for what it makes, and what to stop at its end.
type bench struct {
	ctx      context.Context //nolint:containedctx // the run's own life
	dir      string
	out      io.Writer
	rounds   int
	length   time.Duration
	fairlead string // the built binary
	self     string
}

func run(ctx context.Context, only []string, rounds int, length time.Duration, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "fairlead-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{ctx: ctx, dir: dir, out: out, rounds: rounds, length: length, fairlead: filepath.Join(dir, "fairlead")}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", b.fairlead, "./cmd/fairlead")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build fairlead: %w", err)
	}
	fmt.Fprintf(out, "%s, %s, %d processors, %d rounds of %s a side\n\n", time.Now().Format(time.DateOnly), runtime.Version(), runtime.NumCPU(), rounds, length)
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"bus", b.bus}, {"store", b.store}, {"queues", b.queues}, {"proxy", b.proxy}, {"doors", b.doors}, {"changes", b.changes}, {"soak", b.soak}, {"start", b.start}, {"trade", b.trade}, {"faults", b.faults}, {"live", b.live},
	} {
		if len(only) > 0 && !slices.Contains(only, part.name) || len(only) == 0 && (part.name == "soak" || part.name == "changes") {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// process is a program that runs beside the bench.
type process struct {
	cmd *exec.Cmd
	log bytes.Buffer
	end chan struct{}
}

func (b *bench) spawn(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(b.ctx, name, args...), end: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(os.Interrupt) }
	p.cmd.WaitDelay = 20 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = p.cmd.Wait(); close(p.end) }()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.end:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.end
	}
}

// up runs a system until stop is called. It returns when path answers 2xx.
type up struct {
	*process
	b       *bench
	stack   string
	data    string
	address string
	took    time.Duration // until the first answer
}

func (b *bench) up(stack, path string) (*up, error) {
	u := &up{b: b, stack: stack, data: filepath.Join(b.dir, "data-"+filepath.Base(stack)), address: freeAddress()}
	begin := time.Now()
	var err error
	u.process, err = b.spawn(b.fairlead, "up", stack, "--data", u.data, "--listen", u.address)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 30 * time.Second}
	for time.Since(begin) < 3*time.Minute {
		select {
		case <-u.end:
			return nil, fmt.Errorf("fairlead up %s ended: %s", stack, u.log.String())
		default:
		}
		resp, err := client.Get("http://" + u.address + path)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				u.took = time.Since(begin)
				return u, nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	u.stop()
	return nil, fmt.Errorf("%s%s does not answer: %s", u.address, path, u.log.String())
}

// verb runs a command of the CLI against the system.
func (u *up) verb(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(u.b.ctx, u.b.fairlead, append([]string{"--file", u.stack, "--data", u.data, "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("fairlead %s: %w: %s%s", strings.Join(args, " "), err, stderr.String(), out)
	}
	return out, nil
}

// status is the part of `fairlead status --json` that the bench reads.
type status struct {
	PID       int `json:"pid"`
	KeeperPID int `json:"keeper_pid"`
	Services  []struct {
		Name      string `json:"name"`
		Instances []struct {
			ID       string `json:"id"`
			PID      int    `json:"pid"`
			State    string `json:"state"`
			Address  string `json:"address"`
			Requests uint64 `json:"requests"`
		} `json:"instances"`
	} `json:"services"`
}

func (u *up) status() (status, error) {
	var s status
	out, err := u.verb("status")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(out, &s)
}

func freeAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

func (b *bench) table(title, head string, rows ...string) {
	fmt.Fprintf(b.out, "## %s\n\n%s\n|%s\n%s\n\n", title, head, strings.Repeat("---|", strings.Count(head, "|")-1), strings.Join(rows, "\n"))
}

const pairHead = "| what | fairlead | peer | ratio, median (range) | wanted | processor time of a request | failed |"

// bus: HTTP -> bus -> service -> back, against plain request/reply, and against the
// least that a program on net/http can do for the same.
func (b *bench) bus() error {
	u, err := b.up("bench", "/bus?x=1")
	if err != nil {
		return err
	}
	defer u.stop()
	natsAddress := freeAddress()
	server, err := b.spawn(b.self, "peer", "nats", natsAddress)
	if err != nil {
		return err
	}
	defer server.stop()
	for range 2 { // as many as instances
		echo, err := b.spawn(b.self, "peer", "echo", natsAddress)
		if err != nil {
			return err
		}
		defer echo.stop()
	}
	bareAddress := freeAddress()
	bare, err := b.spawn(b.self, "peer", "bare", bareAddress, natsAddress)
	if err != nil {
		return err
	}
	defer bare.stop()
	if err := waitTCP(bareAddress); err != nil {
		return err
	}
	var rows []string
	for _, size := range []int{128, 1024} {
		body := payload(size)
		for _, peer := range []struct {
			name, wanted string
			run          func() (result, error)
		}{
			{"nats.go, 64 requesters on one connection", "0.40", b.overNATS(natsAddress, body, true)},
			{"nats.go, 64 requesters, a connection each", "", b.overNATS(natsAddress, body, false)},
			{"a bare net/http handler that calls nats.go", "", b.overHTTP(bareAddress, "POST", "/", body)},
		} {
			row, err := pair{
				name:  fmt.Sprintf("HTTP to the bus and back, 64 connections, %d B", size),
				a:     side{"POST", b.overHTTP(u.address, "POST", "/bus", body)},
				b:     side{peer.name, peer.run},
				limit: peer.wanted,
			}.measure(b.rounds)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
	}
	b.table("Requests over the bus", pairHead, rows...)
	return nil
}

// proxy: a pool over HTTP, against a bare httputil.ReverseProxy before the same
// instances.
func (b *bench) proxy() error {
	u, err := b.up("bench", "/http")
	if err != nil {
		return err
	}
	defer u.stop()
	st, err := u.status()
	if err != nil {
		return err
	}
	var sockets []string
	for _, i := range st.Services[0].Instances {
		sockets = append(sockets, i.Address)
	}
	peerAddress := freeAddress()
	peer, err := b.spawn(b.self, append([]string{"peer", "proxy", peerAddress}, sockets...)...)
	if err != nil {
		return err
	}
	defer peer.stop()
	if err := waitTCP(peerAddress); err != nil {
		return err
	}
	var rows []string
	for _, shape := range []struct {
		name, method string
		body         []byte
	}{{"GET, 280 B answer", "GET", nil}, {"POST, 1 KiB both ways", "POST", payload(1024)}, {"POST, 64 KiB both ways", "POST", payload(64 << 10)}} {
		row, err := pair{
			name:  "proxied " + shape.name + ", 64 connections",
			a:     side{"with access log and request ids", b.overHTTP(u.address, shape.method, "/http", shape.body)},
			b:     side{"bare ReverseProxy", b.overHTTP(peerAddress, shape.method, "/http", shape.body)},
			limit: "0.85",
		}.measure(b.rounds)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	b.table("Proxying", pairHead, rows...)
	return nil
}

func payload(n int) []byte {
	return []byte(`{"data":"` + strings.Repeat("x", n-11) + `"}`)
}

func waitTCP(address string) error {
	var err error
	for range 500 {
		var c net.Conn
		if c, err = net.Dial("tcp", address); err == nil {
			return c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

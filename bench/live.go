package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// liveSystem has subscribers of plain subjects and of a queue.
const liveSystem = `
system: bench-live
gateway: {listen: "127.0.0.1:3107", limits: {connections: 100000}}
queues: {"data.*": {keep: 1h}}
routes:
  /live: {subscribe: "data.*", heartbeat: 10m}
  /news: {subscribe: "news.*", buffer: 4096, heartbeat: 10m} # its subscribers here answer no pings
  /health: {monitor: health}
`

// fanned is how many messages may be on their way to all subscribers at once.
const fanned = 32

// live: one message to many WebSockets, against the raw server and as many plain
// subscribers; and a thousand that come back after a restart.
func (b *bench) live() error {
	stack := filepath.Join(b.dir, "live")
	if err := os.MkdirAll(stack, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(stack, "fairlead.yaml"), []byte(liveSystem), 0o600); err != nil {
		return err
	}
	var rows []string
	for _, count := range []int{1000, 10_000} {
		row, err := b.fanOut(stack, count)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	b.table("Subscribers", "| subscribers | fairlead, deliveries/s | raw server | ratio, median | one message to all: fairlead, p50 | raw | memory of a WebSocket, node |", rows...)
	row, err := b.comeBack(stack, 1000)
	if err != nil {
		return err
	}
	b.table("Coming back", "| subscribers | published | away | all back after the door opened | lost | twice |", row)
	return nil
}

// fanOut measures one number of subscribers on both sides.
func (b *bench) fanOut(stack string, count int) (string, error) {
	u, err := b.up(stack, "/health")
	if err != nil {
		return "", err
	}
	defer u.stop()
	st, err := u.status()
	if err != nil {
		return "", err
	}
	before := resident(st.PID)
	// One side after the other: both together have more files open than a process may.
	var memory float64
	here, lateHere, err := b.crowd(&crowdOf{
		publish: u.publisher, dial: func() (net.Conn, *bufio.Reader, error) { return dialLive(u.address, "/news") }, next: nextFrame,
	}, count, func() { memory = (resident(st.PID) - before) * 1024 / float64(count) })
	if err != nil {
		return "", err
	}
	rawAddress := freeAddress()
	server, err := b.spawn(b.self, "peer", "nats", rawAddress)
	if err != nil {
		return "", err
	}
	defer server.stop()
	if err := waitTCP(rawAddress); err != nil {
		return "", err
	}
	there, lateThere, err := b.crowd(&crowdOf{
		publish: func() (*nats.Conn, error) { return nats.Connect("nats://" + rawAddress) },
		dial:    func() (net.Conn, *bufio.Reader, error) { return dialNATS(rawAddress) }, next: nextMsg,
	}, count, func() {})
	if err != nil {
		return "", err
	}
	m := len(here) / 2
	return fmt.Sprintf("| %d | %.0f | %.0f | %.2f | %s | %s | %.1f KiB |", count, here[m], there[m], here[m]/there[m],
		lateHere[m].Round(100*time.Microsecond), lateThere[m].Round(100*time.Microsecond), memory), nil
}

// crowd measures one side: deliveries a second, and how long one message takes to all,
// of each round, sorted.
func (b *bench) crowd(c *crowdOf, count int, come func()) (rates []float64, late []time.Duration, err error) {
	defer c.leave()
	if err := c.come(count); err != nil {
		return nil, nil, err
	}
	come()
	for range b.rounds {
		rate, alone, err := c.drive(b.length)
		if err != nil {
			return nil, nil, err
		}
		rates, late = append(rates, rate), append(late, alone)
	}
	slices.Sort(rates)
	slices.Sort(late)
	return rates, late, nil
}

// publisher connects as the operator's tools do.
func (u *up) publisher() (*nats.Conn, error) {
	env, err := os.ReadFile(filepath.Join(u.data, "operator.env"))
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(env)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[name] = value
	}
	return nats.Connect(vars["NATS_URL"], nats.UserInfo(vars["NATS_USER"], vars["NATS_PASSWORD"]))
}

// crowdOf is many subscribers of one side.
type crowdOf struct {
	publish func() (*nats.Conn, error)
	dial    func() (net.Conn, *bufio.Reader, error)
	next    func(*bufio.Reader) (message bool, err error)

	conns []net.Conn
	got   atomic.Int64
	news  chan struct{} // cap 1
	want  atomic.Int64
	lost  atomic.Pointer[error]
	work  sync.WaitGroup
}

func (c *crowdOf) come(count int) error {
	c.news = make(chan struct{}, 1)
	for range count {
		conn, r, err := c.dial()
		if err != nil {
			return fmt.Errorf("subscriber %d: %w", len(c.conns), err)
		}
		c.conns = append(c.conns, conn)
		c.work.Go(func() {
			for {
				message, err := c.next(r)
				if err != nil {
					c.lost.CompareAndSwap(nil, &err)
					return
				}
				if message && c.got.Add(1) >= c.want.Load() {
					select {
					case c.news <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	return nil
}

func (c *crowdOf) leave() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.work.Wait()
}

// drive publishes in bursts, each when all have got the last one, and returns how many
// messages a second were delivered, and how long one alone took to all, at p50.
func (c *crowdOf) drive(length time.Duration) (rate float64, late time.Duration, err error) {
	nc, err := c.publish()
	if err != nil {
		return 0, 0, err
	}
	defer nc.Close()
	body := payload(256)
	burst := func(n int) error {
		from := c.got.Load()
		c.want.Store(from + int64(n*len(c.conns)))
		for range n {
			if err := nc.Publish("news.all", body); err != nil {
				return err
			}
		}
		if err := nc.Flush(); err != nil {
			return err
		}
		limit := time.After(20 * time.Second)
		for c.got.Load() < c.want.Load() {
			select {
			case <-c.news:
			case <-limit:
				if lost := c.lost.Load(); lost != nil {
					return fmt.Errorf("a subscriber was dropped: %w", *lost)
				}
				return fmt.Errorf("%d deliveries are missing", c.want.Load()-c.got.Load())
			}
		}
		return nil
	}
	var alone []time.Duration
	for range 20 {
		begin := time.Now()
		if err := burst(1); err != nil {
			return 0, 0, err
		}
		alone = append(alone, time.Since(begin))
	}
	slices.Sort(alone)
	begin, first := time.Now(), c.got.Load()
	for time.Since(begin) < length {
		if err := burst(fanned); err != nil {
			return 0, 0, err
		}
	}
	return float64(c.got.Load()-first) / time.Since(begin).Seconds(), alone[len(alone)/2], nil
}

// dialLive opens a WebSocket.
func dialLive(address, path string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, nil, err
	}
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, address)
	r := bufio.NewReaderSize(conn, 1<<10)
	for first := true; err == nil; first = false {
		var line string
		if line, err = r.ReadString('\n'); first && !strings.Contains(line, " 101 ") {
			err = fmt.Errorf("the door says %q", line)
		}
		if line == "\r\n" {
			return conn, r, nil
		}
	}
	return nil, nil, errors.Join(err, conn.Close())
}

// readFrame reads the payload of a frame of the door, into buf.
func readFrame(r *bufio.Reader, buf []byte) (op byte, payload []byte, err error) {
	head := make([]byte, 2, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	op = head[0] & 0xf
	size := int(head[1])
	more := map[int]int{126: 2, 127: 8}[size]
	if more > 0 {
		if _, err := io.ReadFull(r, head[2:2+more]); err != nil {
			return 0, nil, err
		}
		size = 0
		for _, b := range head[2 : 2+more] {
			size = size<<8 | int(b)
		}
	}
	payload = slices.Grow(buf[:0], size)[:size]
	_, err = io.ReadFull(r, payload)
	return op, payload, err
}

// nextFrame reads one frame of the door and tells whether it is a message.
func nextFrame(r *bufio.Reader) (bool, error) {
	var small [512]byte
	op, payload, err := readFrame(r, small[:])
	if err == nil && op == 8 {
		err = fmt.Errorf("closed: %q", payload)
	}
	return bytes.HasPrefix(payload, []byte(`{"event":"message"`)), err
}

// dialNATS subscribes at the raw server.
func dialNATS(address string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(conn, 1<<10)
	if _, err = r.ReadString('\n'); err == nil { // INFO
		_, err = io.WriteString(conn, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB news.* 1\r\nPING\r\n")
	}
	for err == nil {
		var line string
		if line, err = r.ReadString('\n'); line == "PONG\r\n" {
			return conn, r, nil
		}
	}
	return nil, nil, errors.Join(err, conn.Close())
}

// nextMsg reads one operation of the raw server and tells whether it is a message.
func nextMsg(r *bufio.Reader) (bool, error) {
	line, err := r.ReadSlice('\n')
	if err != nil || !bytes.HasPrefix(line, []byte("MSG ")) {
		return false, err
	}
	fields := bytes.Fields(line)
	size, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err == nil {
		_, err = r.Discard(size + 2)
	}
	return true, err
}

// comer is a subscriber that comes back with its cursor.
type comer struct {
	mu     sync.Mutex
	cursor string
	got    []int
}

// comeBack has subscribers come back after a restart of the door.
func (b *bench) comeBack(stack string, count int) (string, error) {
	u, err := b.up(stack, "/health")
	if err != nil {
		return "", err
	}
	defer func() { u.stop() }()
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var address atomic.Pointer[string]
	address.Store(&u.address)
	list := make([]comer, count)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	for i := range list {
		work.Go(func() {
			for ctx.Err() == nil {
				list[i].follow(ctx, *address.Load())
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(50+i%100) * time.Millisecond):
				}
			}
		})
	}
	await := func(what string, ok func(c *comer) bool) error {
		for limit := time.Now().Add(time.Minute); ; {
			done := true
			for i := range list {
				list[i].mu.Lock()
				done = done && ok(&list[i])
				list[i].mu.Unlock()
			}
			if done {
				return nil
			}
			if time.Now().After(limit) {
				return errors.New("it takes too long until " + what)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err := await("all are there", func(c *comer) bool { return c.cursor != "" }); err != nil {
		return "", err
	}
	last := 0
	publish := func(n int) error {
		nc, err := u.publisher()
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		for range n {
			last++
			if _, err := js.Publish(ctx, "data.a", []byte(strconv.Itoa(last))); err != nil {
				return err
			}
		}
		return nil
	}
	if err := publish(100); err != nil {
		return "", err
	}
	begin := time.Now() // the last messages are still on their way to some
	u.stop()
	if u, err = b.up(stack, "/health"); err != nil {
		return "", err
	}
	opened := time.Now()
	if err := publish(100); err != nil { // before they are back
		return "", err
	}
	address.Store(&u.address)
	told := time.Now()
	if err := await("all are told everything", func(c *comer) bool { return len(c.got) > 0 && c.got[len(c.got)-1] == last }); err != nil {
		return "", err
	}
	all := time.Since(told)
	lost, twice := 0, 0
	for i := range list {
		seen := map[int]int{}
		for _, n := range list[i].got {
			seen[n]++
		}
		for n := 1; n <= last; n++ {
			switch seen[n] {
			case 0:
				lost++
			case 1:
			default:
				twice++
			}
		}
	}
	return fmt.Sprintf("| %d | %d | %s | %s | %d | %d |", count, last, opened.Sub(begin).Round(10*time.Millisecond), all.Round(10*time.Millisecond), lost, twice), nil
}

func (c *comer) follow(ctx context.Context, address string) {
	c.mu.Lock()
	path := "/live?cursor=" + c.cursor
	c.mu.Unlock()
	conn, r, err := dialLive(address, path)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var buf []byte
	for {
		op, payload, err := readFrame(r, buf)
		if err != nil || op == 8 {
			return
		}
		buf = payload
		var e struct {
			Event, Cursor string
			Data          int
		}
		if op != 1 || json.Unmarshal(payload, &e) != nil {
			continue
		}
		c.mu.Lock()
		if e.Cursor != "" {
			c.cursor = e.Cursor
		}
		if e.Event == "message" {
			c.got = append(c.got, e.Data)
		}
		c.mu.Unlock()
	}
}

package gateway

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/gateway/balance"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// poolOf is a pool with so many endpoints that nobody listens on.
func poolOf(t *testing.T, n int, s system.Pool, log *slog.Logger) (*pool, []*endpoint) {
	t.Helper()
	g := New(Options{Logger: log})
	eps := make([]Endpoint, n)
	for i := range eps {
		eps[i] = Endpoint{Instance: fmt.Sprintf("api-%d", i), Network: "tcp", Address: "127.0.0.1:1"}
	}
	if err := g.Apply(Config{Services: []system.Service{{Name: "api", Pool: s}}, Endpoints: map[string][]Endpoint{"api": eps}}); err != nil {
		t.Fatal(err)
	}
	p := g.pools["api"]
	return p, p.current().http
}

func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p, es := poolOf(t, 4, system.Pool{Eject: 3, EjectTime: 10 * time.Second}, slog.New(slog.NewTextHandler(&log, nil)))
		fail := func(e *endpoint, times int) {
			for range times {
				p.judge(e, faultBroken, true)
			}
		}
		out := func() (ids []string) {
			for _, e := range es {
				if !e.sound(time.Now()) {
					ids = append(ids, e.Instance)
				}
			}
			return ids
		}
		fail(es[0], 2)
		p.judge(es[0], faultNone, false)
		fail(es[0], 2)
		if got := out(); got != nil {
			t.Fatalf("%v ejected although an answer stood between", got)
		}
		fail(es[0], 1)
		if got := out(); len(got) != 1 || got[0] != "api-0" {
			t.Fatalf("ejected are %v after three failures in a row", got)
		}
		for range 20 {
			e := p.choose(p.current(), time.Now(), nil, wish{prefer: "api-0"})
			if e == es[0] {
				t.Fatal("an ejected endpoint is taken")
			}
			e.leave()
		}
		fail(es[1], 3)
		fail(es[2], 9)
		fail(es[3], 9)
		if got := out(); len(got) != 2 {
			t.Fatalf("%v of four are ejected", got)
		}
		time.Sleep(10*time.Second + 1)
		if got := out(); got != nil {
			t.Fatalf("%v still ejected after the eject time", got)
		}
		fail(es[0], 1) // comes back and fails at once
		time.Sleep(10*time.Second + 1)
		if got := out(); len(got) != 1 {
			t.Fatal("the second time is not longer")
		}
		time.Sleep(10 * time.Second)
		p.judge(es[0], faultNone, false)
		if n := strings.Count(log.String(), "ejected from"); n != 2 {
			t.Errorf("told %d times of two endpoints:\n%s", n, &log)
		}
		if n := strings.Count(log.String(), "answers again"); n != 1 {
			t.Errorf("told %d times that one is back:\n%s", n, &log)
		}
		time.Sleep(time.Hour)
		fail(es[0], 3)
		time.Sleep(10*time.Second + 1)
		if got := out(); got != nil {
			t.Error("long ago counts")
		}
	})
}

func TestTheOnlyEndpointIsNeverEjected(t *testing.T) {
	p, es := poolOf(t, 1, system.Pool{Eject: 1, EjectTime: time.Hour}, nil)
	p.judge(es[0], faultConnect, true)
	if !es[0].sound(time.Now()) {
		t.Error("ejected")
	}
}

func TestWhatCountsAsAFault(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	d := openDoor(t, Options{})
	d.using = map[string]system.Pool{"api": {Eject: 5, EjectTime: time.Hour}}
	answers := serviceOf(t, "answers", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {answers}})
	for s, want := range map[int]uint64{200: 0, 404: 0, 429: 0, 500: 0, 501: 0, 502: 1, 503: 1, 504: 1} {
		status.Store(int64(s))
		before := d.Pools()[0]
		d.do("GET", "/", nil, nil)
		after := d.Pools()[0]
		if got := after.Faults.Status - before.Faults.Status; got != want || after.Endpoints[0].Failures-before.Endpoints[0].Failures != want {
			t.Errorf("status %d counts %d", s, got)
		}
	}
	garbage := rawServiceText(t, "garbage", "SSH-2.0-OpenSSH\r\n\r\n")
	d.SetEndpoints("api", []Endpoint{garbage})
	d.do("GET", "/", nil, nil)
	if f := d.Pools()[0].Faults; f.Broken != 1 {
		t.Errorf("an answer that is not HTTP: %+v", f)
	}
	cut := rawServiceText(t, "cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
	d.SetEndpoints("api", []Endpoint{cut})
	if res, err := d.client.Get(d.URL() + "/"); err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	await.Until(t, "a cut answer to count", func() bool { return d.Pools()[0].Faults.Broken == 2 })
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := poolOf(t, 3, system.Pool{SlowStart: 10 * time.Second, Balance: system.RoundRobin}, nil)
		share := func(id string) float64 {
			n := 0
			const times = 4000
			for range times {
				e := p.choose(p.current(), time.Now(), nil, wish{})
				if e.Instance == id {
					n++
				}
				e.leave()
			}
			return float64(n) / times
		}
		if s := share("api-0"); s < 0.3 || s > 0.36 {
			t.Errorf("all are new, and one of three gets %.3f", s)
		}
		time.Sleep(time.Minute)
		eps := []Endpoint{{"api-9", "tcp", "127.0.0.1:2"}}
		for _, e := range p.current().all {
			eps = append(eps, e.Endpoint)
		}
		p.g.SetEndpoints("api", eps)
		last := 0.0
		for range 10 {
			s := share("api-9")
			if s < last-0.01 {
				t.Errorf("its share shrinks from %.3f to %.3f", last, s)
			}
			if last == 0 && s > 0.05 {
				t.Errorf("it begins with %.3f", s)
			}
			last = s
			time.Sleep(time.Second)
		}
		if s := share("api-9"); s < 0.23 || s > 0.27 {
			t.Errorf("it ends with %.3f of four", s)
		}
	})
}

func TestWishes(t *testing.T) {
	p, es := poolOf(t, 4, system.Pool{Balance: system.LeastRequests}, nil)
	now := time.Now()
	for range 20 {
		if e := p.pick(p.g.snap.Load(), now, nil, wish{prefer: "api-2"}); e != es[2] {
			t.Fatal("the preferred instance is not taken")
		}
	}
	keyed := wish{keyed: true, key: balance.Key("ann")}
	first := p.choose(p.current(), now, nil, keyed)
	for range 20 {
		if e := p.choose(p.current(), now, nil, keyed); e != first {
			t.Fatal("a key moves")
		}
	}
	if e := p.choose(p.current(), now, []*endpoint{first}, keyed); e == first || e == nil {
		t.Error("a key does not go on to another endpoint when its own was tried")
	}
	es[2].retire()
	if e := p.choose(p.current(), now, nil, wish{prefer: "api-2"}); e == nil || e == es[2] {
		t.Error("a preferred instance that left is not replaced")
	}
}

func TestHashOfAPool(t *testing.T) {
	d := openDoor(t, Options{})
	d.using = map[string]system.Pool{"api": {Balance: system.HashBalance, Hash: "header:X-Tenant"}}
	var eps []Endpoint
	for i := range 4 {
		id := fmt.Sprintf("api-%d", i)
		eps = append(eps, serviceOf(t, id, text(id)))
	}
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": eps})
	seen := map[string]bool{}
	for i := range 16 {
		tenant := func(r *http.Request) { r.Header.Set("X-Tenant", fmt.Sprint("tenant", i)) }
		_, first := d.do("GET", "/", nil, tenant)
		seen[first] = true
		for range 3 {
			if _, again := d.do("GET", "/", nil, tenant); again != first {
				t.Errorf("tenant %d goes to %s, then to %s", i, first, again)
			}
		}
	}
	if len(seen) < 2 {
		t.Errorf("all tenants go to %v", seen)
	}
}

func TestLongestWait(t *testing.T) {
	now := time.Unix(1000, 0)
	var s stalls
	for i, took := range []time.Duration{5, 3, 9, 2, 4, 1} {
		s.add(stall{now.Add(time.Duration(i) * time.Second), took})
	}
	for i, want := range []time.Duration{9, 9, 9, 4, 4, 1, 0} {
		if got := s.longest(now.Add(time.Duration(i) * time.Second)); got != want {
			t.Errorf("since %d s: %d, want %d", i, got, want)
		}
	}
	for i := range 1000 {
		s.add(stall{now, time.Duration(2000 - i)})
	}
	if len(s) > keepStalls || s.longest(now) != 2000 {
		t.Errorf("%d kept, the longest %d", len(s), s.longest(now))
	}
}

// rawServiceText answers every connection with the same bytes and closes it.
func rawServiceText(t *testing.T, instance, answer string) Endpoint {
	t.Helper()
	return rawService(t, instance, func(c net.Conn, _ string) { io.WriteString(c, answer) })
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// loadRate is how many requests a second the commerce system gets while it is
// changed, whatever it does: an open loop, so that a stall shows.
const loadRate = 200

// shape is one kind of request of the mixed load.
type shape struct {
	method, path string
	body         []byte
	idempotent   bool
}

var mixed = []shape{
	{"GET", "/api/flows?limit=5", nil, true},
	{"GET", "/api/model/countries?limit=5", nil, true},
	{"GET", "/api/flows/summary?by=year", nil, true},
	{"GET", "/api/auth/me", nil, true},
	{"GET", "/api/model/commodities?limit=5", nil, true},
	{"POST", "/api/flows/import", []byte("reporter_iso,reporter_desc,flow_desc,partner_iso,partner_desc,cmd_code,cmd_desc,primary_value,ref_year\nAUT,Austria,Import,DEU,Germany,4401,Fuel wood,1.5,2001\n"), false},
	{"POST", "/api/auth/refresh", []byte(`{"refresh_token":"unknown"}`), false},
}

// traffic is the outcome of a load.
type traffic struct {
	mu       sync.Mutex // guards all below
	requests int
	statuses map[int]int
	// failedSafe counts idempotent requests that did not succeed, failedOther
	// the others that got no answer at all, or none that says what happened.
	failedSafe, failedOther int
	unknown                 int // answered 502 or 504: it is said that the outcome is unknown
	examples                []string
	longest                 time.Duration
}

func (t *traffic) note(s shape, status int, body []byte, err error, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	t.longest = max(t.longest, took)
	t.statuses[status]++
	// An unknown refresh token is refused: that is its answer.
	good := err == nil && (status/100 == 2 || status == 401 && strings.HasSuffix(s.path, "refresh"))
	if good {
		return
	}
	if len(t.examples) < 5 {
		t.examples = append(t.examples, fmt.Sprintf("%s %s: %d %v %.200s", s.method, s.path, status, err, body))
	}
	switch {
	case s.idempotent:
		t.failedSafe++
	case err == nil && status >= 500 && bytes.Contains(body, []byte(`"detail"`)):
		t.unknown++
	default:
		t.failedOther++
	}
}

// load sends the mix until stop is called, which returns what came of it.
func (c *client) load() (stop func() *traffic) {
	t := &traffic{statuses: map[int]int{}}
	var wg sync.WaitGroup
	var ended atomic.Bool
	wg.Go(func() {
		tick := time.NewTicker(time.Second / loadRate)
		defer tick.Stop()
		for i := 0; !ended.Load(); i++ {
			<-tick.C
			s := mixed[i%len(mixed)]
			wg.Go(func() {
				begin := time.Now()
				status, body, err := c.send(s)
				t.note(s, status, body, err, time.Since(begin))
			})
		}
	})
	return func() *traffic { ended.Store(true); wg.Wait(); return t }
}

func (c *client) send(s shape) (int, []byte, error) {
	req, err := http.NewRequest(s.method, "http://"+c.address+s.path, bytes.NewReader(s.body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	switch {
	case strings.HasSuffix(s.path, "import"):
		req.Header.Set("Content-Type", "text/csv")
	case s.body != nil:
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}

// faults: what the users of the commerce system notice of changes and deaths.
func (b *bench) faults() error {
	stack, err := copyStack(filepath.Join("stacks", "commerce"), b.dir)
	if err != nil {
		return err
	}
	u, err := b.up(stack, "/api/model/countries")
	if err != nil {
		return err
	}
	defer u.stop()
	c, err := u.login()
	if err != nil {
		return err
	}
	c.http = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 512, MaxConnsPerHost: 512}}
	var rows []string
	for _, service := range []string{"auth", "model", "tradeflow"} {
		row, err := u.under(c, "restart "+service, func() (string, error) {
			out, err := u.verb("restart", service)
			if err != nil {
				return "", err
			}
			return receipt(out)
		})
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	for _, service := range []string{"auth", "tradeflow"} {
		row, err := u.under(c, "SIGKILL of one of two instances of "+service, func() (string, error) { return u.kill(service) })
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	row, err := u.under(c, "reload with a changed route", func() (string, error) {
		file := filepath.Join(stack, "fairlead.yaml")
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		changed := bytes.Replace(text, []byte("\nroutes:\n"), []byte("\nroutes:\n  GET /api/bench: {request: model.countries}\n"), 1)
		if bytes.Equal(changed, text) {
			return "", fmt.Errorf("%s has no routes", file)
		}
		if err := os.WriteFile(file, changed, 0o600); err != nil {
			return "", err
		}
		if _, err := u.verb("reload"); err != nil {
			return "", err
		}
		return "", c.call("GET", "/api/bench?limit=1", "", nil, nil)
	})
	if err != nil {
		return err
	}
	b.table(fmt.Sprintf("Changes and deaths under %d requests/s", loadRate),
		"| what | requests | failed, idempotent | failed, others | others told that it failed | longest | receipt |", append(rows, row)...)
	return nil
}

// under runs change in the middle of a load.
func (u *up) under(c *client, name string, change func() (string, error)) (string, error) {
	stop := c.load()
	time.Sleep(time.Second) // the old instances serve
	note, err := change()
	time.Sleep(time.Second) // the new ones do
	t := stop()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	for _, e := range t.examples {
		fmt.Fprintln(os.Stderr, name+":", e)
	}
	statuses := make([]string, 0, len(t.statuses))
	for _, code := range slices.Sorted(maps.Keys(t.statuses)) {
		statuses = append(statuses, strconv.Itoa(code)+"x"+strconv.Itoa(t.statuses[code]))
	}
	return fmt.Sprintf("| %s | %d (%s) | %d | %d | %d | %s | %s |",
		name, t.requests, strings.Join(statuses, " "), t.failedSafe, t.failedOther, t.unknown, t.longest.Round(time.Millisecond), note), nil
}

// receipt shows what the old and the new instances served during a change.
func receipt(out []byte) (string, error) {
	var r struct {
		Old, New []struct {
			Instance string
			Requests int
		}
		Failed int
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return "", err
	}
	sum := func(list []struct {
		Instance string
		Requests int
	},
	) (n int) {
		for _, s := range list {
			n += s.Requests
		}
		return n
	}
	return fmt.Sprintf("old %d, new %d, failed %d", sum(r.Old), sum(r.New), r.Failed), nil
}

// kill ends one ready instance as the kernel would, and returns when another
// has taken its place.
func (u *up) kill(service string) (string, error) {
	ready := func() (ids []string, pid int, err error) {
		st, err := u.status()
		for _, s := range st.Services {
			for _, i := range s.Instances {
				if s.Name == service && i.State == "ready" {
					ids, pid = append(ids, i.ID), i.PID
				}
			}
		}
		return ids, pid, err
	}
	before, pid, err := ready()
	if err != nil || len(before) < 2 {
		return "", fmt.Errorf("%d instances of %s are ready: %w", len(before), service, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return "", err
	}
	begin := time.Now()
	for time.Since(begin) < 20*time.Second {
		now, _, err := ready()
		if err != nil {
			return "", err
		}
		if len(now) >= len(before) && !slices.Equal(now, before) {
			return fmt.Sprintf("replaced in %s", time.Since(begin).Round(10*time.Millisecond)), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", fmt.Errorf("no instance of %s has taken the place of the killed one", service)
}

// copyStack makes a system in dir that is the stack but for its file, which may
// be changed.
func copyStack(stack, dir string) (string, error) {
	abs, err := filepath.Abs(stack)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(stack, "fairlead.yaml"))
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, filepath.Base(stack))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(stack)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() == "fairlead.yaml" || e.Name() == ".fairlead" {
			continue
		}
		if err := os.Symlink(filepath.Join(abs, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return "", err
		}
	}
	// The builds run where the module is.
	text = bytes.ReplaceAll(text, []byte("\n    build:"), []byte("\n    working_dir: "+abs+"\n    build:"))
	return to, os.WriteFile(filepath.Join(to, "fairlead.yaml"), text, 0o600)
}

package external

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

// world answers look-ups and probes of a test.
type world struct {
	*Watcher

	mu      sync.Mutex
	names   map[string][]string // nil: the look-up fails
	down    map[string]bool     // by address
	lookups int
	probes  int
	changed map[string]int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{names: map[string][]string{}, down: map[string]bool{}, changed: map[string]int{}}
	w.Watcher = New(Options{Resolver: w, Changed: func(s string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed[s]++
	}})
	w.probe = func(_ context.Context, _ *system.Service, t target) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.probes++
		if w.down[t.address] {
			return errors.New("down")
		}
		return nil
	}
	return w
}

func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookups++
	if w.names[host] == nil {
		return nil, errors.New("server misbehaving")
	}
	var addrs []netip.Addr
	for _, s := range w.names[host] {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, nil
}

func (w *world) set(edit func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	edit()
}

// ready returns the addresses of the service billing that are ready.
func (w *world) ready() string {
	eps, _ := w.Endpoints("billing")
	var out []string
	for _, e := range eps {
		out = append(out, strings.TrimPrefix(e.Instance, "billing@"))
	}
	return strings.Join(out, " ")
}

func service(name string, external ...string) []system.Service {
	return []system.Service{{Name: name, External: external, Healthcheck: system.Healthcheck{Interval: 2 * time.Second, Timeout: time.Second, Retries: 3}}}
}

func TestNamesLeadToEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Stop()
		w.names["billing"] = []string{"10.0.0.2", "10.0.0.1", "::ffff:10.0.0.1"}
		w.Apply(service("billing", "billing:80", "10.0.0.9:81", "[fd00::1]:82", "10.0.0.2:80"))
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.1:80 10.0.0.2:80 10.0.0.9:81 [fd00::1]:82" {
			t.Errorf("ready are %q", got)
		}
		w.set(func() { w.names["billing"] = []string{"10.0.0.3"} })
		time.Sleep(resolveEvery + time.Millisecond)
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.2:80 10.0.0.3:80 10.0.0.9:81 [fd00::1]:82" {
			t.Errorf("after the name has moved %q", got)
		}
	})
}

func TestFailingResolverKeepsTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Stop()
		w.Apply(service("billing", "billing:80"))
		synctest.Wait()
		if s, ok := w.Status("billing"); !ok || len(s.Problems) != 1 || len(s.Endpoints) != 0 {
			t.Errorf("a name that nobody knows: %+v", s)
		}
		w.set(func() { w.names["billing"] = []string{"10.0.0.1"} })
		time.Sleep(resolveEvery + time.Millisecond)
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.1:80" {
			t.Fatalf("ready are %q", got)
		}
		w.set(func() { w.names["billing"] = nil })
		time.Sleep(time.Minute)
		if s, _ := w.Status("billing"); len(s.Problems) != 1 || w.ready() != "10.0.0.1:80" {
			t.Errorf("the last answer does not stand: %+v", s)
		}
	})
}

func TestProbesDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Stop()
		w.down["10.0.0.1:80"] = true
		w.Apply(service("billing", "10.0.0.1:80", "10.0.0.2:80"))
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.2:80" {
			t.Errorf("ready are %q", got)
		}
		if s, _ := w.Status("billing"); s.Endpoints[0].Reason != "down" {
			t.Errorf("no reason: %+v", s)
		}
		w.set(func() { w.down = map[string]bool{"10.0.0.2:80": true} })
		time.Sleep(2*time.Second + time.Millisecond)
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.1:80 10.0.0.2:80" {
			t.Errorf("one success does not suffice, or one failure does: %q", got)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.1:80" {
			t.Errorf("three failures do not: %q", got)
		}
	})
}

func TestFailureLooksUpSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Stop()
		w.names["billing"] = []string{"10.0.0.1"}
		w.Apply(service("billing", "billing:80"))
		synctest.Wait()
		w.set(func() { w.names["billing"] = []string{"10.0.0.2"} })
		for range 100 {
			w.Failed("billing")
		}
		time.Sleep(resolveSoon + time.Millisecond)
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.2:80" || w.lookups != 2 {
			t.Errorf("ready are %q after %d look-ups", got, w.lookups)
		}
		w.Failed("nobody")
	})
}

func TestApplyKeepsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Stop()
		w.Apply(service("billing", "10.0.0.1:80"))
		synctest.Wait()
		before := w.probes
		w.Apply(service("billing", "10.0.0.1:80"))
		synctest.Wait()
		if w.probes != before {
			t.Error("what has not changed begins anew")
		}
		w.Apply(service("billing", "10.0.0.1:80", "10.0.0.2:80"))
		if got := w.ready(); got != "10.0.0.1:80" {
			t.Errorf("between two definitions %q is ready", got)
		}
		synctest.Wait()
		if got := w.ready(); got != "10.0.0.1:80 10.0.0.2:80" {
			t.Errorf("ready are %q", got)
		}
		w.Apply(nil)
		if _, ok := w.Endpoints("billing"); ok {
			t.Error("still followed")
		}
	})
}

func TestManyAddressesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.Stop()
		for i := range 200 {
			w.names["many"] = append(w.names["many"], fmt.Sprintf("10.0.1.%d", i))
		}
		w.Apply(service("many", "many:80"))
		synctest.Wait()
		if eps, _ := w.Endpoints("many"); len(eps) != maxEndpoints {
			t.Errorf("%d endpoints", len(eps))
		}
	})
}

func TestProbe(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" || r.Host != "billing:80" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	tests := []struct {
		name, path, address string
		ok                  bool
	}{
		{"connects", "", s.Listener.Addr().String(), true},
		{"refused", "", nobody, false},
		{"well", "/health", s.Listener.Addr().String(), true},
		{"ill", "/other", s.Listener.Addr().String(), false},
		{"refused with a path", "/health", nobody, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			def := &system.Service{Healthcheck: system.Healthcheck{HTTP: tt.path}}
			if err := probe(t.Context(), def, target{"billing:80", tt.address}); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestApplyStopStress(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		w.names["a"] = []string{"10.0.0.1"}
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				w.Apply(service("a", "a:80", fmt.Sprintf("10.0.0.%d:80", i+2)))
				w.Failed("a")
				w.Endpoints("a")
			})
		}
		all.Wait()
		w.Stop()
	}
}

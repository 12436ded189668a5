package observe

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var update = flag.Bool("update", false, "write what was told into the golden")

func whole() Snapshot {
	return Snapshot{
		Version: "1.2.3", Revision: 7,
		Door: Door{
			Routes: []Route{
				{Key: "GET /a/{id}", Classes: [6]uint64{1, 1, 5, 0, 2, 1}, Within: []uint64{6, 2, 1}, Took: 2500 * time.Millisecond, Bytes: 4096},
				{Key: "other"},
			},
			Bounds: []time.Duration{time.Millisecond, time.Second},
			Failed: 1, Open: 3, Tunnels: 2, Connections: map[string]int{":443": 12}, Refused: map[string]uint64{"rate": 4},
			Subscribers: map[string]int{"/live": 6},
		},
		Pools: []Pool{{
			Service: "api", Requests: 9, Retries: 1, Failed: 1, Refused: 1, Ejections: 1, Faults: map[string]uint64{"connect": 2},
			Open: 3, Waiting: 1, Queued: 4, LongestWait: 1500 * time.Millisecond,
			Endpoints: []Endpoint{{Instance: "api-3", Open: 3, Requests: 9, Failures: 2, Ejected: true}},
		}},
		Services: []Service{{Name: "api", Wanted: 2, States: map[string]int{"ready": 1, "backoff": 1}, Restarts: 5}},
		Certificates: []Certificate{
			{Name: "shop.example.com", Source: "file", Expires: time.Unix(2_000_000_000, 0)},
			{Name: "shop.example.com", Source: "file", Expires: time.Unix(1_900_000_000, 0)},
			{Name: "missing.example.com", Source: "acme"},
		},
		Bus: &Bus{Connections: 4, Subscriptions: 20, Received: 100, Sent: 90, ReceivedBytes: 1000, SentBytes: 900, SlowConsumers: 1, StoreBytes: 4096},
		Queues: []Queue{
			{Name: "orders.*", Messages: 16, Bytes: 2048, Dead: 3, Accepted: 20, Refused: 2, Consumers: []Consumer{{Name: "worker_bill", Behind: 5, Unacked: 2, Repeat: 1}}},
			{Name: "empty"},
		},
	}
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// ours are the lines about fairlead; those about Go and the process vary.
func ours(page string) string {
	var b strings.Builder
	for line := range strings.Lines(page) {
		if strings.Contains(line, "fairlead_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestMetrics(t *testing.T) {
	page := scrape(t, Metrics(whole))
	if !strings.Contains(page, "go_goroutines") || !strings.Contains(page, "process_resident_memory_bytes") {
		t.Error("nothing is told of Go or of the process")
	}
	golden := filepath.Join("testdata", "metrics.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(ours(page)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), ours(page)); diff != "" {
		t.Errorf("metrics (-want +got)\n%s", diff)
	}
}

func TestNamesAreThoseThatPrometheusExpects(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(ours(scrape(t, Metrics(whole))))).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestNothingToTellYet(t *testing.T) {
	page := ours(scrape(t, Metrics(func() Snapshot { return Snapshot{} })))
	if strings.Contains(page, "fairlead_bus") || !strings.Contains(page, "fairlead_requests_open 0") {
		t.Errorf("got\n%s", page)
	}
}

func TestQueuesAreBounded(t *testing.T) {
	many := make([]Queue, 2*mostQueues)
	for i := range many {
		many[i] = Queue{Name: strconv.Itoa(i), Consumers: make([]Consumer, 9)}
	}
	const ofQueue, ofConsumer = 7, 3
	to := make(chan prometheus.Metric, len(many)*(ofQueue+9*ofConsumer))
	sink(to).queues(many)
	if want := mostQueues*ofQueue + mostConsumers*ofConsumer; len(to) != want {
		t.Errorf("%d series, want %d", len(to), want)
	}
}

func TestCertificatesAreBounded(t *testing.T) {
	many := make([]Certificate, 2*mostCertificates)
	for i := range many {
		many[i] = Certificate{Name: strings.Repeat("a", i+1), Expires: time.Unix(1, 0)}
	}
	to := make(chan prometheus.Metric, len(many))
	sink(to).certificates(many)
	if len(to) != mostCertificates {
		t.Errorf("%d series, want %d", len(to), mostCertificates)
	}
}

// BenchmarkScrape is a scrape of a system as large as one is allowed to be in its
// routes, with 30 services of 4 instances.
func BenchmarkScrape(b *testing.B) {
	s := whole()
	s.Door.Routes = nil
	for i := range 202 {
		s.Door.Routes = append(s.Door.Routes, Route{
			Key: "GET /api/" + strconv.Itoa(i), Classes: [6]uint64{0, 0, 9, 0, 2, 1}, Within: []uint64{9, 2, 1}, Took: time.Second, Bytes: 1,
		})
	}
	pool := s.Pools[0]
	s.Pools, s.Services = nil, nil
	for i := range 30 {
		pool.Service = "service-" + strconv.Itoa(i)
		pool.Endpoints = nil
		for k := range 4 {
			pool.Endpoints = append(pool.Endpoints, Endpoint{Instance: pool.Service + "-" + strconv.Itoa(k)})
		}
		s.Pools = append(s.Pools, pool)
		s.Services = append(s.Services, Service{Name: pool.Service, Wanted: 4, States: map[string]int{"ready": 4}})
	}
	h := Metrics(func() Snapshot { return s })
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}

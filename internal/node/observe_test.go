package node

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fairlead/internal/control"
)

func TestMetricsAndTheBusAreWatchedThroughTheDoor(t *testing.T) {
	f := newFixture(t)
	f.edit("secrets: {TOKEN", "secrets: {OPS: {generate: 16}, TOKEN")
	f.edit(`gateway: {listen: "127.0.0.1:0"}`, `gateway: {listen: "127.0.0.1:0", auth: {basic: {users: {ops: {secret: OPS, roles: [operator]}}}}}`)
	f.edit("  /http:", "  GET /metrics: {monitor: metrics, allow: [127.0.0.1]}\n  GET /closed/metrics: {monitor: metrics, allow: [10.0.0.1]}\n  /ops/bus/: {monitor: bus, role: operator}\n  /http:")
	n := f.up()
	password, err := os.ReadFile(filepath.Join(f.dir, ".fairlead", "secrets", "OPS"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string, known bool) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if known {
			req.SetBasicAuth("ops", strings.TrimSpace(string(password)))
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for range 3 {
		if code, _ := ask("/http", false); code != 200 {
			t.Fatalf("GET /http: %d", code)
		}
	}
	ask("/nowhere", false)
	code, page := ask("/metrics", false)
	if code != 200 {
		t.Fatalf("GET /metrics: %d %s", code, page)
	}
	for _, want := range []string{
		`fairlead_requests_total\{class="2xx",route="/http"\} 3`,
		`fairlead_request_duration_seconds_count\{route="/http"\} 3`,
		`fairlead_requests_total\{class="4xx",route="none"\} 1`,
		`fairlead_requests_open 1`, // this one
		`fairlead_instances\{service="echo",state="ready"\} 2`,
		`fairlead_instances_wanted\{service="echo"\} 2`,
		`fairlead_pool_requests_total\{service="echo"\} 3`,
		`fairlead_endpoint_requests_open\{instance="echo-\d",service="echo"\} 0`,
		`fairlead_restarts_total\{service="echo"\} 0`,
		`fairlead_refused_total\{reason="address"\} 0`,
		`fairlead_bus_connections [1-9]`,
		`fairlead_revision 1`,
		`go_goroutines \d`,
	} {
		if !regexp.MustCompile(want).MatchString(page) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	if strings.Contains(page, "127.0.0.1\"") || strings.Contains(page, "nowhere") {
		t.Error("a client's address or path is told")
	}
	if code, _ := ask("/closed/metrics", false); code != 403 {
		t.Errorf("metrics for others: %d", code)
	}
	if code, _ := ask("/ops/bus/connz", false); code != 401 {
		t.Errorf("the bus for everybody: %d", code)
	}
	code, page = ask("/ops/bus/connz?subs=1", true)
	if code != 200 || !strings.Contains(page, `"subscriptions_list"`) || !strings.Contains(page, "echo.say") {
		t.Errorf("the bus for the operator: %d %s", code, page)
	}
	if code, page = ask("/ops/bus/varz", true); code != 200 || !strings.Contains(page, `"jetstream"`) {
		t.Errorf("the bus for the operator: %d %s", code, page)
	}
	if code, _ = ask("/ops/bus/stacksz", true); code != 404 {
		t.Errorf("another page of NATS: %d", code)
	}
}

// TestNobodyCanAlarmOnQueues had metrics that told nothing of depth, dead letters,
// consumers or subscribers.
func TestNobodyCanAlarmOnQueues(t *testing.T) {
	f := newFixture(t)
	f.write(`system: small
gateway: {listen: "127.0.0.1:0"}
queues: {data.vhf: {type: Level}}
types: {Level: level.json}
bus: {users: {lab: {secret: LAB, subscribes: [data.vhf]}}}
secrets: {LAB: {generate: 32}}
routes:
  GET /metrics: {monitor: metrics, allow: [127.0.0.1]}
  /live: {subscribe: data.vhf}
`)
	if err := os.WriteFile(filepath.Join(f.dir, "level.json"), []byte(`{"type": "integer"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	n := f.up()
	for _, body := range []string{"1", "2", `"x"`} {
		_, err := verb[control.PublishReply](f, control.VerbPublish, control.PublishRequest{Subject: "data.vhf", Data: []byte(body)})
		if (err == nil) == (body == `"x"`) {
			t.Fatalf("publish %s: %v", body, err)
		}
	}
	res, err := http.Get(n.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`fairlead_queue_messages{queue="data.vhf"} 2`,
		`fairlead_queue_bytes{queue="data.vhf"} `,
		`fairlead_queue_dead_letters{queue="data.vhf"} 0`,
		`fairlead_queue_checked_total{queue="data.vhf",result="refused"} 1`,
		`fairlead_subscribers{route="/live"} 0`,
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
}

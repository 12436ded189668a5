package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/system"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func commerceStatus() control.Status {
	at := func(d time.Duration) time.Time { return noon.Add(-d) }
	return control.Status{
		System: "commerce", File: "/srv/commerce/fairlead.yaml", Environment: "production", Revision: 12, PID: 811, KeeperPID: 812,
		Version: "0.1.0", Started: at(50 * time.Hour), Address: "http://127.0.0.1:3005", Bus: "nats://127.0.0.1:40001",
		Services: []control.ServiceStatus{
			{Name: "auth", Wanted: 2, Ready: 2, Instance: []control.InstanceStatus{
				{ID: "auth-1", Revision: 9, State: "ready", Since: at(49 * time.Hour), PID: 900, Requests: 1204551},
				{ID: "auth-14", Revision: 9, State: "ready", Since: at(95 * time.Second), PID: 1200, Restarts: 3, Requests: 17},
			}},
			{Name: "mail", Wanted: 0, Override: &control.Override{Since: at(3 * time.Minute)}},
			{Name: "model", Wanted: 1, Problem: "model-8: exited with code 2: \"database is\x1b[2J locked\"; 7 times in a row, next try in 6s", Instance: []control.InstanceStatus{
				{
					ID: "model-8", Revision: 12, State: "backoff", Since: at(4 * time.Second), Restarts: 7,
					Reason: "exited with code 2: \"database is\x1b[2J locked\"; 7 times in a row, next try in 6s",
				},
			}},
			{Name: "tradeflow", Wanted: 2, Ready: 1, Problem: "1 instance is not wanted yet", Instance: []control.InstanceStatus{
				{ID: "tradeflow-3", Revision: 12, State: "ready", Since: at(time.Hour), PID: 950, Requests: 88},
				{ID: "tradeflow-5", Revision: 12, State: "starting", Since: at(time.Second), PID: 1300},
				{ID: "tradeflow-2", Revision: 11, State: "draining", Since: at(2 * time.Second), PID: 930, Requests: 4000},
			}},
			{Name: "worker", Wanted: 1},
		},
	}
}

func TestRenderStatus(t *testing.T) {
	for _, columns := range []int{0, 100, 80, 60, 40} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			lines := renderStatus(plainScreen(columns), commerceStatus(), noon)
			golden(t, fmt.Sprintf("status_%d", columns), shown(lines))
			if columns >= 60 {
				if w := widest(lines[2:]); w > columns {
					t.Errorf("a line has %d columns of %d", w, columns)
				}
			}
		})
	}
	t.Run("several listeners", func(t *testing.T) {
		st := commerceStatus()
		st.Listening = []string{st.Address, "http://127.0.0.1:80", "http://127.0.0.1:8081"}
		if lines := renderStatus(plainScreen(100), st, noon); lines[2] != "also http://127.0.0.1:80, http://127.0.0.1:8081" {
			t.Errorf("below the first address stands %q", lines[2])
		}
	})
	t.Run("maintenance", func(t *testing.T) {
		st := commerceStatus()
		st.Maintenance = []control.Maintenance{
			{On: true, Text: "back at 9", Allow: []string{"10.0.0.0/8", "::1/128"}, Since: noon.Add(-3 * time.Minute)},
			{Route: "GET /old", On: true},
			{Route: "POST /orders", Since: noon.Add(-time.Hour)},
		}
		golden(t, "status_maintenance", shown(renderStatus(plainScreen(100), st, noon)))
	})
	t.Run("certificates", func(t *testing.T) {
		st := commerceStatus()
		st.BusOutside = "0.0.0.0:4223"
		st.Root = "/srv/commerce/.fairlead/certificates/root.pem"
		st.Certificates = []control.Certificate{
			{Names: []string{"shop.example", "www.shop.example"}, Source: "file", File: "/etc/shop.pem", Expires: noon.Add(61 * 24 * time.Hour)},
			{Names: []string{"old.example"}, Source: "file", Expires: noon.Add(-26 * time.Hour)},
			{Names: []string{"new.example"}, Source: "acme", Problem: "the authority refused: no such\x1b[2J name"},
		}
		for i := range 12 {
			st.Certificates = append(st.Certificates, control.Certificate{
				Names: []string{fmt.Sprintf("dev-%d.localhost", i)}, Source: "internal", Expires: noon.Add(time.Duration(90+i) * 24 * time.Hour),
			})
		}
		golden(t, "status_certificates", shown(renderStatus(plainScreen(80), st, noon)))
	})
	t.Run("colors", func(t *testing.T) {
		golden(t, "status_colors", strings.ReplaceAll(shown(renderStatus(colorScreen(100), commerceStatus(), noon)), "\x1b", "^"))
	})
	t.Run("still starting", func(t *testing.T) {
		golden(t, "status_starting", shown(renderStatus(plainScreen(80), control.Status{System: "commerce", Started: noon, Address: "http://127.0.0.1:3005"}, noon)))
	})
}

func TestRenderReceipt(t *testing.T) {
	served := func(n ...uint64) (list []control.Served) {
		for _, n := range n {
			list = append(list, control.Served{Instance: "i", Requests: n})
		}
		return list
	}
	tests := []struct {
		name string
		r    control.Receipt
		want string
	}{
		{"replaced", control.Receipt{Service: "tradeflow", Old: served(100, 20), New: served(3, 130), Took: 1312 * time.Millisecond}, "tradeflow: 2 replaced in 1.3s; served meanwhile: old 120, new 133; failed 0"},
		{"failed", control.Receipt{Service: "auth", Old: served(1), New: served(2), Failed: 4, Took: 90 * time.Millisecond}, "auth: 1 replaced in 90ms; served meanwhile: old 1, new 2; failed 4"},
		{"nobody asked", control.Receipt{Service: "auth", Old: served(0), New: served(0), Took: 90 * time.Millisecond}, "auth: 1 replaced in 90ms"},
		{"first", control.Receipt{Service: "mail", New: served(2), Took: time.Second}, "mail: 1 started in 1.0s; served meanwhile: old 0, new 2; failed 0"},
		{"last", control.Receipt{Service: "mail", Old: served(2), Took: 2 * time.Minute}, "mail: 1 stopped in 2m; served meanwhile: old 2, new 0; failed 0"},
		{"scaled", control.Receipt{Service: "mail", Old: served(2), New: served(1, 1, 1), Took: time.Second}, "mail: 1 replaced by 3 in 1.0s; served meanwhile: old 2, new 3; failed 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := renderReceipt(plainScreen(0), tt.r); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestRenderReload(t *testing.T) {
	changes := []control.Change{
		{Path: "services.mail", Kind: "added", New: "{command: mail}"},
		{Path: "routes.GET /old", Kind: "removed"},
		{Path: "services.auth.replicas", Kind: "changed", Old: "1", New: "2"},
		{Path: "services.auth.environment.NOTE", Kind: "changed", Old: "a\x1b[2Jb", New: "c"},
	}
	tests := []struct {
		name string
		r    control.ReloadReply
		dry  bool
	}{
		{"dry run", control.ReloadReply{Changes: changes, Replaces: []string{"auth", "mail"}}, true},
		{"dry run routes only", control.ReloadReply{Changes: changes[1:2]}, true},
		{"dry run nothing", control.ReloadReply{}, true},
		{"nothing", control.ReloadReply{}, false},
		{"applied", control.ReloadReply{Revision: 13, Changes: changes, Receipts: []control.Receipt{{
			Service: "auth", Old: []control.Served{{Requests: 7}}, New: []control.Served{{Requests: 8}}, Took: time.Second,
		}}}, false},
		{"applied under load", control.ReloadReply{Revision: 14, Traffic: &control.Traffic{
			Requests: 4711, Failed: 2, Stall: 1300 * time.Millisecond, Connections: control.Carried{Before: 12, Kept: 12}, Tunnels: control.Carried{Before: 3, Kept: 3},
		}}, false},
		{"applied while nobody asked", control.ReloadReply{Revision: 15, Traffic: &control.Traffic{}}, false},
		{"applied while somebody idled", control.ReloadReply{Revision: 16, Traffic: &control.Traffic{Connections: control.Carried{Before: 1}}}, false},
	}
	var all strings.Builder
	for _, tt := range tests {
		fmt.Fprintf(&all, "-- %s --\n%s", tt.name, shown(renderReload(plainScreen(0), tt.r, tt.dry)))
	}
	golden(t, "reload", all.String())
}

func TestRenderLists(t *testing.T) {
	var all strings.Builder
	add := func(name string, lines []string) { fmt.Fprintf(&all, "-- %s --\n%s", name, shown(lines)) }
	add("revisions", renderRevisions(plainScreen(0), []control.Revision{
		{Number: 1, Applied: noon.Add(-26 * time.Hour)},
		{Number: 2, Applied: noon.Add(-time.Hour), Changes: 4},
		{Number: 3, Applied: noon.Add(-time.Minute), Changes: 4, From: 1, Current: true},
	}, noon))
	add("no revisions", renderRevisions(plainScreen(0), nil, noon))
	add("env", renderEnv(plainScreen(60), control.EnvReply{Service: "auth", Variables: []control.Variable{
		{Name: "ADMIN_PASSWORD", Source: "secret ADMIN_PASSWORD", Secret: true, Value: "must not be shown"},
		{Name: "EMPTY", Source: "file"},
		{Name: "LOG_LEVEL", Source: "file", Value: "info"},
		{Name: "PATH", Source: "shell", Value: "/usr/local/bin:/usr/bin:/bin:/usr/games"},
		{Name: "PORT", Source: "fairlead"},
	}}))
	add("findings", renderFindings(plainScreen(0), system.Findings{
		{File: "/srv/fairlead.yaml", Line: 3, Column: 5, Field: "services.a.replicass", Problem: "is not a key of a service", Advice: `did you mean "replicas"?`},
		{File: "/srv/fairlead.yaml", Problem: "is empty"},
	}))
	add("warnings", renderWarnings(plainScreen(0), system.Findings{
		{File: "/srv/fairlead.yaml", Line: 2, Column: 7, Field: "bus.url", Problem: "is a bus on which permissions are not enforced", Advice: "add bus.signing_key"},
	}))
	add("services", []string{
		renderService(control.ServiceStatus{Name: "auth", Ready: 2, Wanted: 2}),
		renderService(control.ServiceStatus{Name: "auth"}),
		renderCheck(&system.System{Services: make([]system.Service, 3), Routes: make([]*system.Route, 1), Databases: make([]system.Database, 2)}, "stacks/commerce/fairlead.yaml"),
	})
	golden(t, "lists", all.String())
	if strings.Contains(all.String(), "must not be shown") {
		t.Error("the value of a secret is shown")
	}
}

func TestRenderLogs(t *testing.T) {
	lines := []control.Line{
		{Time: noon, Instance: "auth-9", Stream: "err", Text: "this one may write there only"},
		{Time: noon, Instance: "auth-10", Stream: "out", Text: "started"},
		{Time: noon.Add(time.Second), Instance: "auth-10", Stream: "err", Text: "\x1b[31mred\x1b[0m \x1b[2J\x07bell\ttab \xff"},
		{Time: noon.Add(2 * time.Second), Instance: "auth-9", Stream: "out", Text: ""},
	}
	var all strings.Builder
	for _, s := range []*screen{plainScreen(0), colorScreen(80)} {
		for _, times := range []bool{false, true} {
			v := newLogView(s, times)
			for _, l := range lines {
				fmt.Fprintf(&all, "%q\n", v.line(l))
			}
		}
	}
	golden(t, "logs", all.String())
}

// TestNarrow looks at the lines that are longer than a terminal is wide.
func TestNarrow(t *testing.T) {
	var all strings.Builder
	for _, columns := range []int{80, 50, 20} {
		v := newUpView(plainScreen(columns), upHead{Version: "0.1.0", System: "commerce", File: "stacks/commerce/fairlead.yaml", Command: "fairlead -C stacks/commerce", Logs: "stacks/commerce/.fairlead/logs"}, noon)
		lines := v.title()
		for _, e := range []control.Event{
			{Kind: control.EventSecret, Text: "ADMIN_PASSWORD: /srv/commerce/.fairlead/secrets/ADMIN_PASSWORD"},
			{Kind: control.EventRoot, Text: "/srv/commerce/.fairlead/certificates/root.pem"},
			{Kind: control.EventDatabase, Text: "trade: /srv/commerce/.fairlead/databases/trade/trade.db"},
			{Kind: control.EventBackoff, Service: "tradeflow", Instance: "tradeflow-12", Text: "exited with code 1: `set up: no driver for sqlite: import _ \"fairlead/service/sqlite\"`; next try in 98ms"},
		} {
			e.Time = noon
			lines = append(lines, v.apply(e)...)
		}
		lines = append(lines, v.places("http://127.0.0.1:3005")...)
		lines = append(lines, v.stop(noon, interrupted)...)
		fmt.Fprintf(&all, "-- %d --\n%s", columns, shown(lines))
		if w := widest(lines); columns == 80 && w > columns {
			t.Errorf("a line has %d columns of %d", w, columns)
		}
	}
	golden(t, "up_narrow", all.String())
}

// A service that something else runs was shown as stopped.
func TestExternalServiceIsNotShownAsStopped(t *testing.T) {
	v := newUpView(plainScreen(80), upHead{System: "shop", Watch: true}, noon)
	v.expect("web", 1, false)
	v.outside("legacy", []string{"10.0.3.4:8080", "10.0.3.5:8080"})
	v.apply(control.Event{Kind: control.EventReady, Service: "web", Instance: "web-1", Time: noon})
	if _, state, detail := v.byName["legacy"].show(v.screen, v.phase, noon); state != "external" || detail != "at 10.0.3.4:8080, 10.0.3.5:8080" {
		t.Errorf("shown as %s %s", state, detail)
	}
	if text := shown(v.ready(noon.Add(time.Second))); !strings.Contains(text, "ready: 1 instance of 1 service in 1.0s") {
		t.Errorf("the end of the start is told as %s", text)
	}
	if text := shown(v.places("http://127.0.0.1:8080")); !strings.Contains(text, "watch   what is saved is built and applied") {
		t.Errorf("that sources are watched is not told:\n%s", text)
	}
}

func TestDurations(t *testing.T) {
	tests := []struct {
		d         time.Duration
		took, ago string
	}{
		{-time.Second, "0ms", "0s"},
		{0, "0ms", "0s"},
		{1499 * time.Microsecond, "1ms", "0s"},
		{999 * time.Millisecond, "999ms", "0s"},
		{1240 * time.Millisecond, "1.2s", "1s"},
		{59900 * time.Millisecond, "59.9s", "59s"},
		{2 * time.Minute, "2m", "2m"},
		{125 * time.Second, "2m5s", "2m5s"},
		{3*time.Hour + 4*time.Minute + 5*time.Second, "3h4m", "3h4m"},
		{49 * time.Hour, "2d1h", "2d1h"},
	}
	for _, tt := range tests {
		if a, b := took(tt.d), ago(tt.d); a != tt.took || b != tt.ago {
			t.Errorf("%v: got %s and %s, want %s and %s", tt.d, a, b, tt.took, tt.ago)
		}
	}
}

func TestClip(t *testing.T) {
	tests := []struct {
		in   string
		n    int
		want string
	}{
		{"short", 10, "short"},
		{"exactly", 7, "exactly"},
		{"much too long", 6, "much ~"},
		{"\x1b[31mred text\x1b[0m", 4, "\x1b[31mred~\x1b[0m"},
		{"grüße an alle", 6, "grüße~"},
	}
	for _, tt := range tests {
		if got := clip(tt.in, tt.n); got != tt.want {
			t.Errorf("clip(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
}

// FuzzHarmless checks that nothing but colours reaches the terminal, and that
// clipped text is no wider than it may be.
func FuzzHarmless(f *testing.F) {
	f.Add("plain", 3)
	f.Add("\x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\x07", 5)
	f.Add("\x1b[1;31", 1)
	f.Add("\u009b2J\xff\u202e", 9)
	f.Fuzz(func(t *testing.T, in string, columns int) {
		for _, colors := range []bool{false, true} {
			rest := harmless(in, colors)
			for rest != "" {
				if n := sgr(rest); n > 0 && colors {
					rest = rest[n:]
					continue
				}
				r := []rune(rest)[0]
				if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
					t.Fatalf("%q lets %q through", in, r)
				}
				rest = rest[len(string(r)):]
			}
		}
		if columns > 0 && columns < 1000 {
			if w := width(clip(in, columns)); w > columns {
				t.Errorf("clip(%q, %d) has %d columns", in, columns, w)
			}
		}
	})
}

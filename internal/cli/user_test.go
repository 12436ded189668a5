package cli

import (
	"io"
	"strings"
	"testing"
	"time"

	"fairlead/internal/control"
)

func TestRenderUsers(t *testing.T) {
	tower := control.BusUser{
		Name: "tower", Publishes: []string{"data.vhf", "data.ais"}, Expires: noon.Add(30 * 24 * time.Hour), Since: noon.Add(-time.Hour), Connections: 2,
	}
	list := []control.BusUser{
		{Name: "board", Subscribes: []string{"data.*"}, Asks: []string{"orders.find"}},
		{Name: "gone", Subscribes: []string{"data.*"}, Expires: noon.Add(-time.Second), Since: noon.Add(-48 * time.Hour)},
		tower,
	}
	credentials := control.BusCredentials{
		BusUser: tower, Password: "a-password", InboxPrefix: "_FL.user.tower", URL: "nats://127.0.0.1:4222", Outside: "bus.example.org:4223",
	}
	s := newScreen(io.Discard, func(string) string { return "" })
	golden(t, "users", strings.Join(renderUsers(s, list, noon), "\n")+"\n\n"+strings.Join(renderUsers(s, nil, noon), "\n")+"\n\n"+
		strings.Join(renderCredentials(credentials, noon), "\n")+"\n")
}

func TestReachable(t *testing.T) {
	for in, want := range map[string]string{
		":4223": "HOST:4223", "0.0.0.0:4223": "HOST:4223", "[::]:4223": "HOST:4223",
		"127.0.0.1:4223": "127.0.0.1:4223", "bus.example.org:4223": "bus.example.org:4223",
	} {
		if got := reachable(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestParseEnd(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Time
	}{
		{"", time.Time{}},
		{"12h", noon.Add(12 * time.Hour)},
		{"30d", noon.Add(30 * 24 * time.Hour)},
		{"2027-01-31T12:00:00Z", time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)},
		{"2027-01-31", time.Date(2027, 1, 31, 0, 0, 0, 0, time.Local)},
	} {
		if got, err := parseEnd(tt.in, noon); err != nil || !got.Equal(tt.want) {
			t.Errorf("%q: %s, %v; want %s", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"soon", "-1h", "0s", "31.01.2027"} {
		if _, err := parseEnd(in, noon); err == nil {
			t.Errorf("%q: taken", in)
		}
	}
}

package cli

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/internal/control"
)

func TestBanVerbs(t *testing.T) {
	dir := t.TempDir()
	s, err := control.Listen(filepath.Join(dir, control.DataDir, control.SocketName), control.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got control.BanRequest
	control.Handle(s, control.VerbBan, func(_ context.Context, req control.BanRequest, _ func(control.Event)) (control.Ban, error) {
		got = req
		return control.Ban{Network: req.Network, Since: noon, Until: req.Until, Reason: req.Reason}, nil
	})
	control.Handle(s, control.VerbUnban, func(_ context.Context, req control.UnbanRequest, _ func(control.Event)) (control.Ban, error) {
		return control.Ban{Network: req.Network, Since: noon}, nil
	})
	control.Handle(s, control.VerbBans, func(context.Context, control.Empty, func(control.Event)) ([]control.Ban, error) {
		return nil, nil
	})
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"an address", []string{"ban", "203.0.113.7"}, exitDone, "203.0.113.7 is banned until it is lifted\n"},
		{"for a time", []string{"ban", "2001:db8::/64", "--for", "90m"}, exitDone, "2001:db8::/64 is banned for 1h30m\n"},
		{"for days", []string{"ban", "203.0.113.7", "--for", "7d"}, exitDone, "203.0.113.7 is banned for 7d\n"},
		{"JSON", []string{"ban", "203.0.113.7", "--reason", "guesses", "--json"}, exitDone, `"reason": "guesses"`},
		{"no address", []string{"ban", "example.com"}, exitUsage, "neither an address nor a network"},
		{"bits behind", []string{"ban", "203.0.113.7/24"}, exitUsage, "did you mean 203.0.113.0/24"},
		{"no time", []string{"ban", "203.0.113.7", "--for", "0s"}, exitUsage, "more than nothing"},
		{"odd time", []string{"ban", "203.0.113.7", "--for", "soon"}, exitUsage, "--for takes a time"},
		{"nothing", []string{"ban"}, exitUsage, "ban needs ADDRESS|NETWORK"},
		{"unban", []string{"unban", "203.0.113.7"}, exitDone, "203.0.113.7 is not banned any more\n"},
		{"bans", []string{"bans"}, exitDone, "nobody is banned\n"},
		{"bans as JSON", []string{"bans", "--json"}, exitDone, `"bans": []`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text, code := run(t, "", append(tt.args, "--data", filepath.Join(dir, control.DataDir))...)
			if code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("exit code %d: %s", code, text)
			}
		})
	}
	if got.Network != netip.MustParsePrefix("203.0.113.7/32") {
		t.Errorf("asked for %+v", got)
	}
}

func TestRenderBans(t *testing.T) {
	lines := renderBans(plainScreen(100), []control.Ban{
		{Network: netip.MustParsePrefix("198.51.100.0/24"), Since: noon.Add(-time.Minute)},
		{Network: netip.MustParsePrefix("2001:db8::1/128"), Since: noon.Add(-26 * time.Hour), Until: noon.Add(90 * time.Second), Reason: "guesses passwords"},
	}, noon)
	golden(t, "bans", shown(lines))
}

package node

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/test/await"
)

func TestBansSurviveARestart(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	call := func(verbName string, req any) (control.Ban, error) { return verb[control.Ban](f, verbName, req) }
	loopback, far := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")

	_, err := call(control.VerbBan, control.BanRequest{Network: loopback})
	if e, ok := errors.AsType[*control.Error](err); !ok || !strings.Contains(e.Hint, "--force") {
		t.Fatalf("this machine was banned: %v", err)
	}
	end := time.Now().Add(time.Hour).Round(0)
	must[control.Ban](t)(call(control.VerbBan, control.BanRequest{Network: far}))
	must[control.Ban](t)(call(control.VerbBan, control.BanRequest{Network: far, Until: end, Reason: "noise"}))
	if code, _ := f.get("/http"); code != 200 {
		t.Fatalf("GET of another client: %d", code)
	}
	must[control.Ban](t)(call(control.VerbBan, control.BanRequest{Network: loopback, Force: true}))
	soon := time.Now().Add(3 * time.Second)
	must[control.Ban](t)(call(control.VerbBan, control.BanRequest{Network: netip.MustParsePrefix("203.0.113.1/32"), Until: soon}))
	if code, _ := f.get("/http"); code != 403 { // on the connection that is open
		t.Errorf("GET of a banned client: %d", code)
	}
	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.up()
	await.Until(t, "the ban that ends soon has ended", func() bool { return time.Now().After(soon) })
	if resp, err := http.Get(f.node.URL() + "/http"); err == nil { //nolint:noctx // bounded by the test
		t.Errorf("GET after a restart: %d", resp.StatusCode)
		_ = resp.Body.Close()
	}
	list := must[[]control.Ban](t)(verb[[]control.Ban](f, control.VerbBans, control.Empty{}))
	if len(list) != 2 || list[0].Network != loopback || list[1].Network != far || !list[1].Until.Equal(end) || list[1].Reason != "noise" {
		t.Errorf("the bans are %+v", list)
	}
	_, err = call(control.VerbUnban, control.UnbanRequest{Network: netip.MustParsePrefix("127.0.0.1/32")})
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.CodeNotFound || !strings.Contains(e.Hint, "127.0.0.0/8") {
		t.Errorf("unban of an address within a banned network: %v", err)
	}
	must[control.Ban](t)(call(control.VerbUnban, control.UnbanRequest{Network: netip.MustParsePrefix("::ffff:127.0.0.0/104")}))
	if code, _ := f.get("/http"); code != 200 {
		t.Errorf("GET after the ban was lifted: %d", code)
	}
}

func TestBansThatMakeNoSenseAreRefused(t *testing.T) {
	b := &bans{all: map[netip.Prefix]control.Ban{}}
	one := netip.MustParsePrefix("192.0.2.1/32")
	tests := []struct {
		name string
		req  control.BanRequest
	}{
		{"no network", control.BanRequest{}},
		{"over already", control.BanRequest{Network: one, Until: time.Now().Add(-time.Second)}},
		{"a long reason", control.BanRequest{Network: one, Reason: strings.Repeat("x", mostReason+1)}},
		{"a reason of two lines", control.BanRequest{Network: one, Reason: "a\nb"}},
		{"everybody", control.BanRequest{Network: netip.MustParsePrefix("0.0.0.0/0")}},
		{"everybody of IPv6", control.BanRequest{Network: netip.MustParsePrefix("::/0")}},
		{"this machine, mapped", control.BanRequest{Network: netip.MustParsePrefix("::ffff:127.0.0.1/128")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := b.ban(t.Context(), tt.req, nil); err == nil {
				t.Error("taken")
			}
		})
	}
	for network, want := range map[string]string{"127.0.0.1/32": "127.0.0.1 is an address of this machine", "127.0.0.0/8": "127.0.0.0/8 holds addresses of this machine"} {
		_, err := b.ban(t.Context(), control.BanRequest{Network: netip.MustParsePrefix(network)}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a ban of %s: %v", network, err)
		}
	}
	if _, err := b.unban(t.Context(), control.UnbanRequest{Network: one}, nil); err == nil || !strings.Contains(err.Error(), "no ban of 192.0.2.1") || strings.Contains(err.Error(), "/32") {
		t.Errorf("lifting what is not there: %v", err)
	}
	for i := range mostBans {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		b.all[netip.PrefixFrom(a, 32)] = control.Ban{}
	}
	if _, err := b.ban(t.Context(), control.BanRequest{Network: one}, nil); err == nil || !strings.Contains(err.Error(), "10000") {
		t.Errorf("one more: %v", err)
	}
}

func TestDoorIsGivenTheSecretsItCompares(t *testing.T) {
	f := newFixture(t)
	f.edit(`gateway: {listen: "127.0.0.1:0"}`, "gateway:\n  listen: \"127.0.0.1:0\"\n  auth: {keys: {keys: {robot: {secret: DOOR}}}}")
	f.edit("secrets: {TOKEN: {generate: 32}}", "secrets: {TOKEN: {generate: 32}, DOOR: {env: DOOR_KEY_OF_TEST}}")
	f.edit("/http: {service: echo}", "/http: {service: echo, auth: [keys]}")
	t.Setenv("DOOR_KEY_OF_TEST", "first")
	f.up()
	try := func(key string) int { return f.getWith("/http", "X-Api-Key", key) }
	if try("first") != 200 || try("second") != 401 {
		t.Error("the first key does not open")
	}
	t.Setenv("DOOR_KEY_OF_TEST", "second")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if try("first") != 401 || try("second") != 200 {
		t.Error("a reload does not take the new value of the secret")
	}
}

// getWith asks with a header of its own.
func (f *fixture) getWith(path, name, value string) int {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.node.URL()+path, http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set(name, value)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

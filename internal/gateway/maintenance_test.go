package gateway

import (
	"net/netip"
	"strings"
	"testing"

	"fairlead/internal/system"
)

func TestMaintenance(t *testing.T) {
	me := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	others := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	down := func(text string, allow []netip.Prefix) *system.Maintenance {
		return &system.Maintenance{Text: text, Allow: allow}
	}
	d := openDoor(t, Options{})
	tests := []struct {
		name        string
		door, route *system.Maintenance
		decided     map[string]*system.Maintenance
		want        string // text of the 503 for /a; "" for open
		elsewhere   string // the same for /b
	}{
		{"open", nil, nil, nil, "", ""},
		{"door", down("", nil), nil, nil, "down for maintenance", "down for maintenance"},
		{"door, but not for me", down("x", me), nil, nil, "", ""},
		{"door, for me too", down("x", others), nil, nil, "x", "x"},
		{"route", nil, down("back at 9", nil), nil, "back at 9", ""},
		{"route instead of the door", down("door", nil), down("route", me), nil, "", "door"},
		{"door by hand", nil, nil, map[string]*system.Maintenance{"": down("now", nil)}, "now", "now"},
		{"route by hand", nil, nil, map[string]*system.Maintenance{"/a": down("now", nil)}, "now", ""},
		{"door by hand closes all", nil, down("route", me), map[string]*system.Maintenance{"": down("now", nil)}, "now", "now"},
		{"door opened by hand", down("file", nil), nil, map[string]*system.Maintenance{"": nil}, "", ""},
		{"door opened by hand, route stays closed", down("file", nil), down("route", nil), map[string]*system.Maintenance{"": nil}, "route", ""},
		{"route opened by hand", down("file", nil), nil, map[string]*system.Maintenance{"/a": nil}, "", "file"},
		{"a route that is not there", nil, nil, map[string]*system.Maintenance{"/c": down("x", nil)}, "", ""},
	}
	ep := serviceOf(t, "api-1", text("ok"))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check := func() {
				t.Helper()
				for path, want := range map[string]string{"/a": tt.want, "/b": tt.elsewhere} {
					res, body := d.do("GET", path, nil, nil)
					if want == "" && body != "ok" {
						t.Errorf("%s: %s %q", path, res.Status, body)
					}
					if want != "" && (res.StatusCode != 503 || !strings.Contains(body, `"detail":"`+want+`"`) || res.Header.Get("Retry-After") != "60") {
						t.Errorf("%s: %s %v %q", path, res.Status, res.Header, body)
					}
				}
			}
			d.SetMaintenance(nil)
			d.applyDoor(system.Gateway{Maintenance: tt.door}, []*system.Route{
				{Path: "/a", Targets: toAPI, Maintenance: tt.route}, {Path: "/b", Targets: toAPI},
			}, map[string][]Endpoint{"api": {ep}})
			d.SetMaintenance(tt.decided)
			check()
			d.SetEndpoints("api", []Endpoint{ep}) // what was decided lasts
			check()
		})
	}
	t.Run("page for a browser", func(t *testing.T) {
		d.applyDoor(system.Gateway{Maintenance: down("back <soon>", nil)}, nil, nil)
		d.SetMaintenance(nil)
		res, body := d.do("GET", "/nowhere", nil, headers("Accept", "text/html"))
		if res.StatusCode != 503 || !strings.Contains(body, "back &lt;soon&gt;") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s %q", res.Status, body)
		}
	})
	if n := d.Failed("api"); n != 0 {
		t.Errorf("%d requests count as failures of the service", n)
	}
}

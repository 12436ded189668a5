package node

import (
	"context"
	"strings"
	"testing"

	"fairlead/internal/control"
)

func TestMaintenanceIsRememberedUntilTheFileSaysOtherwise(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	ask := func(req control.MaintenanceRequest) []control.Maintenance {
		t.Helper()
		return must[[]control.Maintenance](t)(verb[[]control.Maintenance](f, control.VerbMaintenance, req))
	}
	answers := func(path string, want int) {
		t.Helper()
		if code, _ := f.get(path); code != want {
			t.Errorf("%s answers %d, want %d", path, code, want)
		}
	}
	answers("/http", 200)
	if list := ask(control.MaintenanceRequest{On: true, Text: "back at 9"}); len(list) != 1 || !list[0].On || list[0].Text != "back at 9" || list[0].Since.IsZero() {
		t.Errorf("closed: %+v", list)
	}
	answers("/http", 503)
	answers("/nowhere", 503)
	if st := n.Status(); len(st.Maintenance) != 1 {
		t.Errorf("status: %+v", st.Maintenance)
	}
	ask(control.MaintenanceRequest{On: true, Text: "x", Allow: []string{"127.0.0.1", "10.0.0.0/8"}})
	answers("/http", 200)
	ask(control.MaintenanceRequest{On: true})
	answers("/http", 503)

	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	n = f.up()
	answers("/http", 503)
	f.edit("routes:\n", "routes:\n  GET /also: {request: echo.say}\n")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	answers("/also", 503) // the file says nothing else about it
	if list := ask(control.MaintenanceRequest{}); len(list) != 0 {
		t.Errorf("opened: %+v", list)
	}
	answers("/also", 200)

	ask(control.MaintenanceRequest{On: true, Route: "GET /also"})
	answers("/also", 503)
	answers("/http", 200)
	f.edit("GET /also: {request: echo.say}", "GET /also: {request: echo.say, maintenance: here}")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if list := n.Status().Maintenance; len(list) != 1 || list[0].Text != "here" || !list[0].Since.IsZero() {
		t.Errorf("the file says so now: %+v", list)
	}
	if list := ask(control.MaintenanceRequest{Route: "GET /also"}); len(list) != 1 || list[0].On {
		t.Errorf("opened against the file: %+v", list)
	}
	answers("/also", 200)
	f.edit(", maintenance: here", "")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	answers("/also", 200)
	if list := n.Status().Maintenance; len(list) != 0 {
		t.Errorf("nothing is left of it: %+v", list)
	}

	for _, bad := range []control.MaintenanceRequest{
		{On: true, Route: "GET /nowhere"}, {On: true, Text: "two\nlines"}, {On: true, Text: strings.Repeat("x", 1001)}, {On: true, Allow: []string{"here"}},
	} {
		if _, err := verb[[]control.Maintenance](f, control.VerbMaintenance, bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestTheKeyOfStickyRoutesIsKept(t *testing.T) {
	dir := t.TempDir()
	one, err := ticketKey(dir)
	if err != nil || len(one) != 32 {
		t.Fatal(one, err)
	}
	if two, err := ticketKey(dir); err != nil || string(two) != string(one) {
		t.Error("another key", err)
	}
}

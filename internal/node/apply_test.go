package node

import (
	"strings"
	"testing"

	"fairlead/internal/system"
)

// What the bus must know before the door does.
func TestPlanTellsTheBusFirst(t *testing.T) {
	const file = `system: s
services:
  echo: {command: [echo], bus: {answers: [echo.>]}}
  web: {external: ["127.0.0.1:1"]}
queues: {"data.*": {}}
routes:
  /a: {service: web}
  GET /b: {request: echo.b}
`
	dir := t.TempDir()
	read := func(text string) *system.System {
		t.Helper()
		sys, err := system.Parse("fairlead.yaml", []byte(text), dir, system.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return sys
	}
	for _, tt := range []struct {
		name, old, new string
		want           bool
	}{
		{"nothing", "", "", false},
		{"a route to a service", "/a: {service: web}", "/c: {service: web}", false},
		{"a request", "routes:\n", "routes:\n  GET /c: {request: echo.c}\n", false},
		{"a route with a time-out", "/a: {service: web}", "/a: {service: web, timeout: 5s}", false},
		{"a route that publishes", "routes:\n", "routes:\n  POST /c: {publish: data.x}\n", true},
		{"a service", "answers: [echo.>]", "answers: [echo.>, other]", true},
		{"a queue", `"data.*": {}`, `"data.*": {keep: 1h}`, true},
		{"the door", "routes:\n", "gateway: {limits: {body: 1MiB}}\nroutes:\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, next := read(file), read(strings.Replace(file, tt.old, tt.new, 1))
			p := (&Node{}).compare(&revision{sys: old}, nil, &grants{}, next, nil)
			if p.bus != tt.want {
				t.Errorf("the bus is told first: %v, of %+v", p.bus, p.changes)
			}
		})
	}
}

package faults_test

import (
	"strings"
	"testing"

	"fairlead/test/await"
)

// TestNothingTakesTheRequest: a service that has its subject in the file but
// does not listen to it.
func TestNothingTakesTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
system: quiet
gateway: {listen: "127.0.0.1:0"}
services:
  silent:
    command: [SELF, part, silent]
    bus: {group: silent, answers: ["silent.>"]}
  off:
    command: [SELF, part, silent]
    replicas: 0
    bus: {answers: ["off.>"]}
routes:
  GET /any/some: {request: silent.some, timeout: 2s}
  GET /any/{what}: {request: "silent.{what}"}
  GET /off: {request: off.any}
`)
	w.Start()
	w.Ready()
	w.ask("GET", "/any/some", "").refused(t, 504, "did not answer in time")
	a := w.ask("GET", "/any/other", "")
	a.refused(t, 503, "no instance of the service is ready")
	if a.header.Get("Retry-After") == "" {
		t.Error("it is not said when to try again")
	}
	w.ask("GET", "/off", "").refused(t, 503, "the service is stopped")
	if a := w.ask("GET", "/nowhere", ""); a.status != 404 {
		t.Errorf("a path without a route: %v", a)
	}
	w.ask("POST", "/any/some", "").refused(t, 405, "")
	if code, out := w.Command("request", "silent.other"); code != 1 || !strings.Contains(out, "nobody answers silent.other") {
		t.Errorf("request: %d %s", code, out)
	}
	if code, out := w.Command("request", "no.such"); code != 1 || !strings.Contains(out, "nobody answers no.such") {
		t.Errorf("request: %d %s", code, out)
	}
}

// TestBadRequests sends what a service must never see.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
system: strict
gateway: {listen: "127.0.0.1:0", limits: {body: 2MiB}}
services:
  clerk:
    command: [SELF, part, clerk]
    bus: {group: clerk, answers: ["clerk.>"]}
  nest:
    command: [SELF, part, silent]
    bus: {group: nest, format: nest, answers: ["silent.>"]}
  mirror:
    command: [SELF, part, mirror]
    bus: {group: mirror, answers: ["mirror.>"]}
routes:
  POST /size: {request: clerk.size, timeout: 60s}
  POST /who: {request: clerk.who, timeout: 5s}
  POST /nest: {request: silent.some}
  POST /http: {service: mirror, timeout: 5s}
`)
	w.Start()
	w.Ready()
	const media = "application/json"
	large := strings.Repeat("x", 3<<20)
	tests := []struct {
		name, path, body, media string
		status                  int
		detail                  string
	}{
		{"JSON that breaks off", "/size", `{"bytes": `, media, 400, "JSON"},
		{"no JSON to a NestJS service", "/nest", "name=value", "application/x-www-form-urlencoded", 415, "JSON"},
		{"JSON that is none to a NestJS service", "/nest", "name=value", media, 400, "JSON"},
		{"JSON of another shape", "/size", `{"bytes": "many"}`, media, 400, "Bytes must be a whole number"},
		{"body beyond the bus", "/size", `"` + large + `"`, media, 413, "too large"},
		{"body beyond the limit", "/http", large, media, 413, "too large"},
		{"reply beyond the bus", "/size", `{"bytes": 2000000}`, media, 500, "the reply is too large for the bus"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := w.ask("POST", tt.path, tt.body, "Content-Type", tt.media)
			a.refused(t, tt.status, tt.detail)
			if a.took > await.Patience/2 {
				t.Errorf("it took %v, as if it had waited for a time-out", a.took)
			}
		})
	}
	if a := w.ask("POST", "/size", `{"bytes": 1000000}`, "Content-Type", media); a.status != 200 || len(a.body) != 1000002 {
		t.Errorf("a reply that fits: %d with %d bytes", a.status, len(a.body))
	}
	t.Run("why the reply was refused", func(t *testing.T) {
		if _, out := w.Command("logs", "clerk"); !strings.Contains(out, "above the bus's limit") {
			t.Errorf("the service's log does not say what to do:\n%s", out)
		}
	})
	for path, service := range map[string]string{"/http": "over HTTP", "/who": "over the bus"} {
		t.Run("slow body "+service, func(t *testing.T) {
			t.Parallel()
			got := w.raw(t, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
			if !strings.HasPrefix(got, "HTTP/1.1 408 ") {
				t.Errorf("the answer is %q", got)
			}
		})
	}
	t.Run("slow head", func(t *testing.T) {
		t.Parallel()
		w.raw(t, "POST /http HTTP/1.1\r\nHost: x\r\nX-Slow") // must be cut, whatever is said
	})
	t.Run("others meanwhile", func(t *testing.T) {
		t.Parallel()
		for range 20 {
			if a := w.ask("POST", "/http", "{}"); a.status != 200 {
				t.Errorf("the answer is %v", a)
			}
		}
	})
}

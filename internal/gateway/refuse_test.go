package gateway

import (
	"strings"
	"testing"

	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// What the engine refuses is answered and logged like everything else.
func TestMalformedRequestsAreAnsweredAndLogged(t *testing.T) {
	d := openDoor(t, Options{})
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {mirror(t)}})
	tests := []struct{ name, request, status, logged string }{
		{"space before the colon", "GET /a HTTP/1.1\r\nHost : x\r\n\r\n", "400", `"path":"/a"`},
		{"length and coding", "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", `"path":"/b"`},
		{"long target", "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", "414", `"path":""`},
		{"large head", "GET /c HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 300<<10) + "\r\n\r\n", "431", `"path":""`},
		{"unknown coding", "POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "501", `"path":"/d"`},
		{"no HTTP", "\x16\x03\x01", "400", `"method":""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := d.raw(tt.request)
			if !strings.HasPrefix(got, "HTTP/1.1 "+tt.status+" ") || !strings.Contains(got, "Content-Type: "+wire.MediaProblem) || !strings.Contains(got, "Connection: close\r\n") {
				t.Errorf("answer %.400q", got)
			}
			_, id, ok := strings.Cut(got, wire.HeaderRequestID+": ")
			id, _, _ = strings.Cut(id, "\r\n")
			if !ok || !wire.ValidRequestID(id) {
				t.Fatalf("no request id in %.400q", got)
			}
			await.Until(t, "the log line", func() bool { return strings.Contains(d.log.String(), id) })
			for line := range strings.SplitSeq(d.log.String(), "\n") {
				if strings.Contains(line, id) && (!strings.Contains(line, `"status":`+tt.status) || !strings.Contains(line, tt.logged)) {
					t.Errorf("logged %.400s", line)
				}
			}
		})
	}
}

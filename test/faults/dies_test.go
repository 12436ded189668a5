package faults_test

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"fairlead/test/await"
)

// TestServiceDiesDuringARequest: what may be repeated is, and its client sees
// nothing of it; all else is answered, clearly and at once.
func TestServiceDiesDuringARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
system: mortal
gateway: {listen: "127.0.0.1:0"}
services:
  mortal:
    command: [SELF, part, mortal]
    replicas: 6
    bus: {group: mortal, answers: ["mortal.>"]}
  single:
    command: [SELF, part, mortal]
    bus: {group: single, answers: ["single.>"]}
routes:
  /mortal/: {service: mortal}
  GET /ask: {request: mortal.ask}
  POST /ask: {request: mortal.ask, timeout: 6s}
  GET /single: {request: single.ask}
  POST /single: {request: single.ask, timeout: 60s}
  POST /again: {request: mortal.ask, retry: true}
`)
	w.Start()
	w.Ready()
	tests := []struct {
		name, method, path string
		inBody             bool
		status             int
		detail             string
	}{
		{"GET over the bus", "GET", "/ask", false, 200, ""},
		{"POST over the bus, to be repeated by the file", "POST", "/again", true, 200, ""},
		{"POST over the bus", "POST", "/ask", true, 504, "whether it has done what was asked is unknown"},
		{"GET over HTTP", "GET", "/mortal/whole", false, 200, ""},
		{"POST over HTTP", "POST", "/mortal/whole", false, 502, "the service broke off; whether it has done what was asked is unknown"},
	}
	last := func() int { // the highest number that an instance has
		most := 0
		for _, i := range w.Service("mortal").Instance {
			var n int
			if _, err := fmt.Sscanf(i.ID, "mortal-%d", &n); err != nil {
				t.Fatal(err)
			}
			most = max(most, n)
		}
		return most
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			poison := w.Path("poison-" + strings.ReplaceAll(tt.name, " ", "-"))
			w.Write(strings.TrimPrefix(poison, w.Dir+"/"), "")
			path, body := tt.path+"?poison="+url.QueryEscape(poison), ""
			if tt.inBody {
				path, body = tt.path, `{"poison": "`+poison+`"}`
			}
			before := last()
			a := w.ask(tt.method, path, body, "Content-Type", "application/json")
			if tt.status == 200 {
				if a.status != 200 || !strings.Contains(a.body, "mortal-") {
					t.Errorf("the answer is %v, want that of another instance", a)
				}
			} else {
				a.refused(t, tt.status, tt.detail)
			}
			await.Until(t, "the dead one is replaced", func() bool { return last() == before+1 })
		})
	}
	for method, status := range map[string]int{"GET": 200, "POST": 502} {
		t.Run(method+" of the only instance", func(t *testing.T) {
			w.Ready()
			w.Write("poison-"+method, "")
			path, body := "/single?poison="+url.QueryEscape(w.Path("poison-"+method)), ""
			if method == "POST" {
				path, body = "/single", `{"poison": "`+w.Path("poison-POST")+`"}`
			}
			a := w.ask(method, path, body, "Content-Type", "application/json")
			t.Log(a, a.took)
			if status == 200 {
				if a.status != 200 {
					t.Errorf("the answer is %v, want that of the next instance", a)
				}
			} else {
				a.refused(t, status, "whether it has done what was asked is unknown")
				if a.took > await.Patience/2 {
					t.Errorf("it was told after %v, of a minute that it may take", a.took)
				}
			}
		})
	}
	t.Run("in the middle of its answer", func(t *testing.T) {
		poison := w.Path("poison-half")
		w.Write("poison-half", "")
		resp, err := client.Get(w.URL + "/mortal/half?poison=" + url.QueryEscape(poison))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil || string(body) != "the first half" {
			t.Errorf("half an answer looks whole: %d %q, %v", resp.StatusCode, body, err)
		}
	})
	t.Run("afterwards", func(t *testing.T) {
		w.Ready()
		for range 12 {
			if a := w.ask("POST", "/ask", "{}", "Content-Type", "application/json"); a.status != 200 {
				t.Errorf("the answer is %v", a)
			}
		}
	})
}

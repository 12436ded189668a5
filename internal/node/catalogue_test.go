package node

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"fairlead/internal/control"
)

func TestTheCatalogueIsThatOfTheRevisionServed(t *testing.T) {
	f := newFixture(t)
	f.edit("  /http:", "  /asyncapi.json: {monitor: catalogue, allow: [127.0.0.1]}\n  /http:")
	f.edit("routes:", "queues: {data.vhf: {}}\nroutes:")
	n := f.up()
	ask := func(method, tag string) (status int, channels, etag string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, n.URL()+"/asyncapi.json", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", tag)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusOK && method == http.MethodGet {
			var doc struct {
				AsyncAPI string
				Channels map[string]any
			}
			if err := json.Unmarshal(body, &doc); err != nil || doc.AsyncAPI == "" || !strings.Contains(res.Header.Get("Content-Type"), "asyncapi+json") {
				t.Fatalf("%v, %s: %s", err, res.Header, body)
			}
			for name := range doc.Channels {
				channels += name + " "
			}
		}
		return res.StatusCode, channels, res.Header.Get("Etag")
	}
	status, channels, etag := ask(http.MethodGet, "")
	if status != http.StatusOK || channels != "data.vhf " {
		t.Fatalf("GET: %d, %q", status, channels)
	}
	if status, _, _ := ask(http.MethodGet, etag); status != http.StatusNotModified {
		t.Errorf("GET of what is known: %d", status)
	}
	if status, _, _ := ask(http.MethodPost, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
	f.edit("queues: {data.vhf: {}}", "queues: {data.vhf: {}, data.xband: {}}")
	if _, err := n.reload(t.Context(), control.ReloadRequest{}, func(control.Event) {}); err != nil {
		t.Fatal(err)
	}
	if status, channels, _ := ask(http.MethodGet, etag); status != http.StatusOK || len(strings.Fields(channels)) != 2 {
		t.Errorf("after a reload: %d, %q", status, channels)
	}
}

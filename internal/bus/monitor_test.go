package bus

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"fairlead/test/await"
)

func TestMonitorAnswersAsNATSDoes(t *testing.T) {
	ownStore(t)
	b := open(t, shop())
	nc, err := b.Operator("a test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	secrets := []string{b.operator.Password, b.tools.Password, b.gateway.Password}
	tests := []struct {
		path string
		want string // a key of the answer
	}{
		{"/varz", "server_id"},
		{"/varz/", "server_id"},
		{"/connz?subs=detail&auth=1&limit=10&sort=bytes_to", "connections"},
		{"/connz?state=any", "connections"},
		{"/routez", "routes"},
		{"/subsz?subs=1", "subscriptions_list"},
		{"/jsz?streams=true&config=true&accounts=true", "account_details"},
		{"/leafz", "leafnodes"},
		{"/healthz?js-enabled-only=true", "status"},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			w := httptest.NewRecorder()
			b.Monitor().ServeHTTP(w, httptest.NewRequest(http.MethodGet, tt.path, http.NoBody))
			var got map[string]json.RawMessage
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || got[tt.want] == nil {
				t.Fatalf("%d, %v, no %s in %s", w.Code, err, tt.want, w.Body)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "" || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", w.Header())
			}
			for _, secret := range secrets {
				if strings.Contains(w.Body.String(), secret) {
					t.Error("it shows a password")
				}
			}
		})
	}
}

func TestMonitorRefuses(t *testing.T) {
	b := open(t, nil)
	tests := []struct {
		name, method, path string
		want               int
	}{
		{"another page", http.MethodGet, "/stacksz", 404},
		{"a change", http.MethodPost, "/varz", 405},
		{"a bad option", http.MethodGet, "/connz?limit=all", 400},
		{"the list of pages", http.MethodGet, "/", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			b.Monitor().ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, http.NoBody))
			if w.Code != tt.want {
				t.Errorf("%d, want %d", w.Code, tt.want)
			}
		})
	}
}

func TestLoadCountsMessages(t *testing.T) {
	b := open(t, nil)
	nc, err := b.Operator("a test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	before, err := b.Load()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := nc.Publish("a.b", []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// The server adds up what it has read after it has answered it.
	await.Until(t, "the messages are counted", func() bool {
		after, err := b.Load()
		return err == nil && after.ReceivedMessages-before.ReceivedMessages == 5 && after.ReceivedBytes-before.ReceivedBytes >= 50 && after.Connections > 0
	})
}

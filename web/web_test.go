package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestClientIsServed(t *testing.T) {
	tests := []struct {
		name, method, tag string
		want              int
	}{
		{"whole", "GET", "", 200},
		{"head", "HEAD", "", 200},
		{"known", "GET", "own", 304},
		{"another method", "POST", "", 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(tag string) *httptest.ResponseRecorder {
				r := httptest.NewRequestWithContext(t.Context(), tt.method, "/lib/fairlead.js", nil)
				r.Header.Set("If-None-Match", tag)
				w := httptest.NewRecorder()
				Client().ServeHTTP(w, r)
				return w
			}
			w := ask("")
			if tt.tag != "" {
				w = ask(w.Header().Get("Etag"))
			}
			if w.Code != tt.want {
				t.Fatalf("%d, want %d", w.Code, tt.want)
			}
			whole := w.Code == http.StatusOK && tt.method == "GET"
			if got := strings.Contains(w.Body.String(), "export function connect"); got != whole {
				t.Errorf("the body: %.100s", w.Body)
			}
			if ct := w.Header().Get("Content-Type"); w.Code == 200 && ct != "text/javascript; charset=utf-8" {
				t.Error(ct)
			}
		})
	}
}

package wire

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestWriteProblemChoosesByAccept(t *testing.T) {
	tests := []struct {
		name   string
		accept []string
		html   bool
	}{
		{"none", nil, false},
		{"any", []string{"*/*"}, false},
		{"browser", []string{"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}, true},
		{"json client", []string{"application/json, text/plain, */*"}, false},
		{"problem", []string{"application/problem+json"}, false},
		{"html alone", []string{"text/html"}, true},
		{"tie", []string{"text/html, application/json"}, false},
		{"q decides for json", []string{"text/html;q=0.5, application/json"}, false},
		{"q decides for html", []string{"application/json;q=0.2, text/html;level=1;q=0.3"}, true},
		{"html refused", []string{"text/html;q=0, */*"}, false},
		{"only html refused", []string{"text/html;q=0"}, false},
		{"text any", []string{"text/*"}, true},
		{"two lines", []string{"application/json;q=0.1", "Text/HTML ; Q=0.9"}, true},
		{"specific beats any", []string{"*/*, application/json;q=0.1, application/problem+json;q=0.1"}, true},
		{"broken q counts as 1", []string{"text/html;q=abc, application/json;q=0.9"}, true},
		{"NaN", []string{"text/html;q=NaN, application/json"}, false},
		{"nonsense", []string{";;,,/,q=1"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header["Accept"] = tt.accept
			w := httptest.NewRecorder()
			WriteProblem(w, r, Problem{Status: 404})
			want := MediaProblem
			if tt.html {
				want = "text/html; charset=utf-8"
			}
			if got := w.Header().Get("Content-Type"); got != want {
				t.Errorf("got %s", got)
			}
			if got := w.Header().Get("Content-Length"); got != strconv.Itoa(w.Body.Len()) {
				t.Errorf("length %s of %d", got, w.Body.Len())
			}
		})
	}
}

func TestWriteProblemJSON(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://inside.example:9999/secret", nil)
	r.RemoteAddr = "10.9.8.7:1234"
	w := httptest.NewRecorder()
	w.Header().Set("ETag", `"x"`)
	w.Header().Set("Retry-After", "1")
	WriteProblem(w, r, Problem{Status: 503, Detail: `no instance of "auth" is ready`, RequestID: "r-12345678"})
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if want := (Problem{Title: "Service Unavailable", Status: 503, Detail: `no instance of "auth" is ready`, RequestID: "r-12345678"}); p != want {
		t.Errorf("got %+v", p)
	}
	h := w.Header()
	if w.Code != 503 || h.Get("ETag") != "" || h.Get("Retry-After") != "1" || h.Get(HeaderRequestID) != "r-12345678" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", w.Code, h)
	}
	for _, inside := range []string{"10.9.8.7", "9999", "inside.example", "secret"} {
		if strings.Contains(w.Body.String(), inside) {
			t.Errorf("the body holds %s: %s", inside, w.Body)
		}
	}
}

func TestWriteProblemEscapes(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept", "text/html")
	w := httptest.NewRecorder()
	WriteProblem(w, r, Problem{Status: 400, Title: "<b>", Detail: `<script>alert("x")</script>`, RequestID: "<i>"})
	if body := w.Body.String(); strings.Contains(body, "<script>") || strings.Contains(body, "<b>") || strings.Contains(body, "<i>") {
		t.Errorf("not escaped: %s", body)
	}
}

func TestWriteProblemPage(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept", "text/html")
	w := httptest.NewRecorder()
	WriteProblem(w, r, Problem{Status: 404, Detail: "there is no route for this path", RequestID: "r-12345678"})
	for _, part := range []string{"color-scheme:light dark", "<h1>404 Not Found</h1>", "<p>there is no route for this path</p>", "r-12345678"} {
		if !strings.Contains(w.Body.String(), part) {
			t.Errorf("the page lacks %s:\n%s", part, w.Body)
		}
	}
}

func TestWriteProblemStatusAndHead(t *testing.T) {
	for _, status := range []int{0, 99, 200, 302, 399, 600, 99999} {
		w := httptest.NewRecorder()
		WriteProblem(w, httptest.NewRequest(http.MethodHead, "/", nil), Problem{Status: status})
		if w.Code != 500 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
			t.Errorf("%d: %d with %d bytes", status, w.Code, w.Body.Len())
		}
	}
	w := httptest.NewRecorder()
	WriteProblem(w, httptest.NewRequest(http.MethodGet, "/", nil), Problem{Status: 599})
	if w.Code != 599 || !strings.Contains(w.Body.String(), `"title":"Error"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestForeignHeader(t *testing.T) {
	for name, want := range map[string]bool{
		"Fairlead-Identity": true, "fairlead_identity": true, "FAIRLEAD-anything": true, "fAiRlEaD_-x": true,
		"Fairlead.Identity": true, "Nats-Msg-Id": true, "nats_rollup": true, "NATS-": true, "Fairlead-": true,
		"Fairleads-X": false, "X-Fairlead-Identity": false, "Fairlead": false, "Nats": false, "": false, "Natsy": false,
		"X-Request-Id": false, "Traceparent": false, "Content-Type": false,
	} {
		if ForeignHeader(name) != want {
			t.Errorf("ForeignHeader(%q) = %v", name, !want)
		}
	}
}

func FuzzForeignHeader(f *testing.F) {
	f.Add("Fairlead_Identity")
	f.Fuzz(func(t *testing.T, name string) {
		canonical := http.CanonicalHeaderKey(strings.NewReplacer("_", "-", ".", "-").Replace(name))
		if (strings.HasPrefix(canonical, HeaderPrefix) || strings.HasPrefix(canonical, "Nats-")) && !ForeignHeader(name) {
			t.Errorf("%q would pass", name)
		}
	})
}

func FuzzAccept(f *testing.F) {
	f.Add("text/html;q=0.5, */*;q=0.1")
	f.Fuzz(func(t *testing.T, accept string) {
		if q := quality([]string{accept}, "text", "html"); q < 0 || q > 1000 {
			t.Errorf("q = %d", q)
		}
	})
}

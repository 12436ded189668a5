package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"fairlead/internal/gateway/bridge/bustest"
	"fairlead/internal/gateway/publish"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// shelf takes messages, or answers with an error.
type shelf struct {
	mu     sync.Mutex
	stored []publish.Message
	err    error
	wait   bool // until the context or the deadline ends
}

func (s *shelf) Publish(ctx context.Context, m publish.Message) (publish.Receipt, error) {
	if s.wait {
		ctx, cancel := context.WithDeadline(ctx, m.Deadline)
		defer cancel()
		<-ctx.Done()
		return publish.Receipt{}, errors.Join(publish.ErrUnknown, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return publish.Receipt{}, s.err
	}
	s.stored = append(s.stored, m)
	return publish.Receipt{Stream: "orders", Sequence: uint64(len(s.stored))}, nil
}

// publishing is a door with a route that publishes.
func publishing(t *testing.T, s *shelf, p system.Publish, change func(*system.Route)) *door {
	t.Helper()
	d := openDoor(t, Options{Bus: bustest.Connect(t, bustest.Server(t)), Queues: s})
	route := system.Route{Key: "/hooks", Path: "/hooks", Publish: &p}
	if change != nil {
		change(&route)
	}
	if err := d.Apply(Config{Routes: []*system.Route{&route}, Secrets: map[string]string{"KEY": "secret", "STD": "c2VjcmV0"}}); err != nil {
		t.Fatal(err)
	}
	return d
}

// send posts a body and returns the answer.
func (d *door) send(method, body string, header ...string) (*http.Response, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.URL()+"/hooks", strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp, string(b)
}

func TestARequestBecomesAMessage(t *testing.T) {
	s := &shelf{}
	d := publishing(t, s, system.Publish{Subject: "orders.in", Headers: []string{"X-Event"}, Dedupe: []string{"body.id"}}, nil)
	resp, body := d.send("POST", `{"id": 1}`, "X-Event", "e", "Nats-Msg-Id", "forged", "Fairlead-User", "forged")
	if resp.StatusCode != http.StatusAccepted || body != `{"stream":"orders","sequence":1,"duplicate":false}`+"\n" || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("answered %d %s %v", resp.StatusCode, body, resp.Header)
	}
	m := s.stored[0]
	if m.Subject != "orders.in" || string(m.Data) != `{"id": 1}` || m.Key == "" || len(m.Header) != 3 ||
		m.Header["X-Event"][0] != "e" || m.Header[wire.HeaderRequestID][0] != resp.Header.Get(wire.HeaderRequestID) || m.Header[wire.HeaderTrace][0] == "" {
		t.Errorf("stored %+v", m)
	}
	if resp, _ := d.send("GET", ""); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST, PUT" {
		t.Errorf("GET: %d", resp.StatusCode)
	}
	resp, body = d.send("PUT", `{}`)
	var p wire.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != http.StatusUnprocessableEntity || p.Pointer != "/id" {
		t.Errorf("without a key: %d %s", resp.StatusCode, body)
	}
}

func TestAMessageThatIsNotStored(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		status int
		detail string
		retry  bool
	}{
		{"of another type", &publish.Fault{Type: "Order", Pointer: "/id", Reason: "orders.in: is no Order"}, 422, "is no Order", false},
		{"too many wait", publish.ErrFull, 503, "too many", true},
		{"too large", publish.ErrTooLarge, 413, "too large", false},
		{"no space", publish.ErrUnavailable, 503, "cannot be stored now", true},
		{"who knows", publish.ErrUnknown, 504, "not known", false},
		{"something else", errors.New("the disk /dev/sda is full"), 503, "cannot be stored now", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := publishing(t, &shelf{err: tt.err}, system.Publish{Subject: "orders.in"}, nil)
			resp, body := d.send("POST", `{"id": 1}`)
			if resp.StatusCode != tt.status || !strings.Contains(body, tt.detail) || strings.Contains(body, "/dev/sda") || (resp.Header.Get("Retry-After") != "") != tt.retry {
				t.Errorf("answered %d %s %v", resp.StatusCode, body, resp.Header)
			}
			if tt.status == 422 && !strings.Contains(body, `"message_type":"Order","pointer":"/id"`) {
				t.Errorf("the problem is %s", body)
			}
		})
	}
}

func TestWhoMayNotPublish(t *testing.T) {
	s := &shelf{}
	d := publishing(t, s, system.Publish{Subject: "orders.in", Signature: &system.Signature{Kind: system.SignatureToken, Secret: "KEY", Header: "X-Token"}}, nil)
	if resp, body := d.send("POST", `1`, "X-Token", "wrong"); resp.StatusCode != http.StatusUnauthorized || strings.Contains(body+d.log.String(), "secret") {
		t.Errorf("a wrong token: %d %s", resp.StatusCode, body)
	}
	if resp, _ := d.send("POST", `1`, "X-Token", "secret"); resp.StatusCode != http.StatusAccepted {
		t.Errorf("the token: %d", resp.StatusCode)
	}
	if d.Refused()["login"] != 1 || len(s.stored) != 1 {
		t.Errorf("refused %v, stored %d", d.Refused(), len(s.stored))
	}
}

func TestTheLimitsOfAMessage(t *testing.T) {
	s := &shelf{}
	d := publishing(t, s, system.Publish{Subject: "orders.in"}, func(r *system.Route) { r.Limits.Body = 2 << 20 })
	if resp, _ := d.send("POST", string(bytes.Repeat([]byte("x"), 1<<20))); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("beyond the bus's payload: %d", resp.StatusCode)
	}
	if len(s.stored) > 0 {
		t.Error("it was stored")
	}
	d = publishing(t, &shelf{wait: true}, system.Publish{Subject: "orders.in"}, func(r *system.Route) { r.Timeout = 20e6 })
	if resp, body := d.send("POST", "1"); resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("after the route's time: %d %s", resp.StatusCode, body)
	}
}

func TestARouteWithoutQueues(t *testing.T) {
	d := openDoor(t, Options{})
	err := d.Apply(Config{Routes: []*system.Route{{Key: "/a", Path: "/a", Publish: &system.Publish{Subject: "a.b"}}}})
	if err == nil || !strings.Contains(err.Error(), "there is no bus") {
		t.Errorf("applied: %v", err)
	}
}

// TestPagesOfOtherSitesPublishWithoutContentType were stored as messages of the user
// whose cookie the browser sent along: a Blob without type declares nothing.
func TestPagesOfOtherSitesPublishWithoutContentType(t *testing.T) {
	named := func(r *system.Route) { r.Filters.CORS = &system.CORS{Origins: []string{"https://page.example"}} }
	for _, tt := range []struct {
		name   string
		change func(*system.Route)
		header http.Header
		status int
	}{
		{"a program", nil, http.Header{"Content-Type": {"application/json"}}, 202},
		{"nothing is declared", nil, nil, 415},
		{"an empty word", nil, http.Header{"Content-Type": {""}}, 415},
		{"two", nil, http.Header{"Content-Type": {"application/json", "text/plain"}}, 415},
		{"two in one", nil, http.Header{"Content-Type": {"application/json, text/plain"}}, 415},
		{"no media type", nil, http.Header{"Content-Type": {"json"}}, 415},
		{"a page of another site", nil, http.Header{"Content-Type": {"application/json"}, "Origin": {"https://evil.example"}}, 403},
		{"a sandbox", nil, http.Header{"Content-Type": {"application/json"}, "Origin": {"null"}}, 403},
		{"another site without a name", nil, http.Header{"Content-Type": {"application/json"}, "Sec-Fetch-Site": {"cross-site"}}, 403},
		{"the door's own page", nil, http.Header{"Content-Type": {"application/json"}, "Origin": {"DOOR"}, "Sec-Fetch-Site": {"same-origin"}}, 202},
		{"a page that cors names", named, http.Header{"Content-Type": {"application/json"}, "Origin": {"https://page.example"}, "Sec-Fetch-Site": {"cross-site"}}, 202},
		{"a page that it does not", named, http.Header{"Content-Type": {"application/json"}, "Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &shelf{}
			d := publishing(t, s, system.Publish{Subject: "orders.in"}, tt.change)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.URL()+"/hooks", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if tt.header != nil {
				r.Header = tt.header
			}
			if r.Header.Get("Origin") == "DOOR" {
				r.Header.Set("Origin", d.URL())
			}
			resp, err := d.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status || len(s.stored) > 0 != (tt.status == 202) {
				t.Errorf("answered %d, stored %d", resp.StatusCode, len(s.stored))
			}
		})
	}
}

// endless is a body that never comes.
type endless struct{ context.Context }

func (e endless) Read([]byte) (int, error) { <-e.Done(); return 0, io.EOF }

// TestAnUnsignedBodyIsNotWaitedFor: what the headers tell is answered before the body.
func TestAnUnsignedBodyIsNotWaitedFor(t *testing.T) {
	for _, tt := range []struct{ kind, header, value string }{
		{system.SignatureToken, "X-Token", "wrong"},
		{system.SignatureGitHub, "X-Token", "secret"},
		{system.SignatureStripe, "Stripe-Signature", ""},
		{system.SignatureStandard, "Webhook-Id", "1"},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			sig := &system.Signature{Kind: tt.kind, Secret: "KEY"}
			switch tt.kind {
			case system.SignatureToken:
				sig.Header = "X-Token"
			case system.SignatureStandard:
				sig.Secret = "STD"
			}
			d := publishing(t, &shelf{}, system.Publish{Subject: "orders.in", Signature: sig}, nil)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.URL()+"/hooks", endless{t.Context()})
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(tt.header, tt.value)
			resp, err := d.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("answered %d", resp.StatusCode)
			}
		})
	}
}

// TestBodiesOfOneClientAreBounded, whatever they say of their size.
func TestBodiesOfOneClientAreBounded(t *testing.T) {
	var b bodies
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var releases []func()
	for range bodyBytes >> 20 {
		release, err := b.hold(one, -1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	if _, err := b.hold(one, 1, 1<<20); !errors.Is(err, errBodies) {
		t.Errorf("one more: %v", err)
	}
	if release, err := b.hold(other, 1<<20, 1<<20); err != nil {
		t.Errorf("another client's: %v", err)
	} else {
		release()
	}
	for _, release := range releases {
		release()
	}
	if len(b.held) != 0 {
		t.Errorf("still held: %v", b.held)
	}
	if release, err := b.hold(one, bodyBytes+1, bodyBytes+1); err != nil {
		t.Errorf("a lone one beyond: %v", err)
	} else {
		release()
	}
}

package publish

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
)

// made is a route and a request's message by it.
func made(t *testing.T, p system.Publish, body string, header ...string) (Message, error) {
	t.Helper()
	if p.Subject == "" {
		p.Subject = "orders.incoming"
	}
	route, err := New(&system.Route{Path: "/hooks/{shop}", Publish: &p}, map[string]string{"KEY": "It's a Secret to Everybody", "STD": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/hooks/a", http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	if r.Header["Content-Type"] == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if err := route.Admit(r.Header); err != nil {
		return Message{}, err
	}
	return route.Message(r, []byte(body), match.Values{{Name: "shop", Value: "a"}}, "")
}

// wrong is why a request is no message: a status, a pointer, "unproven" or "".
func wrong(err error) string {
	var input *data.Error
	var fault *Fault
	switch {
	case err == nil:
		return ""
	case errors.As(err, &input):
		return strconv.Itoa(input.Status)
	case errors.As(err, &fault):
		return "fault " + fault.Pointer
	case errors.Is(err, ErrUnproven):
		return "unproven"
	}
	return err.Error()
}

func TestWhatAMessageCarries(t *testing.T) {
	m, err := made(t, system.Publish{Subject: "orders.{shop}", Headers: []string{"X-Event", "Content-Type"}}, "{}",
		"x-event", "one", "X-Event", "two", "Content-Type", "application/json", "Nats-Rollup", "all", "Authorization", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "orders.a" || string(m.Data) != "{}" || m.Key != "" || m.ID != "" {
		t.Errorf("the message is %+v", m)
	}
	if len(m.Header) != 2 || strings.Join(m.Header["X-Event"], " ") != "one two" || m.Header["Content-Type"][0] != "application/json" {
		t.Errorf("it carries %v", m.Header)
	}
}

func TestARouteThatCannotBe(t *testing.T) {
	for name, p := range map[string]system.Publish{
		"a header of the bus":   {Subject: "a.b", Headers: []string{"Nats-Msg-Id"}},
		"no such path value":    {Subject: "a.{b}"},
		"a field of nothing":    {Subject: "a.b", Dedupe: []string{"query.a"}},
		"a field without name":  {Subject: "a.b", Dedupe: []string{"body."}},
		"an empty part":         {Subject: "a.b", Dedupe: []string{"body.a..b"}},
		"a secret without one":  {Subject: "a.b", Signature: &system.Signature{Kind: system.SignatureGitHub, Secret: "NONE"}},
		"a secret not base64":   {Subject: "a.b", Signature: &system.Signature{Kind: system.SignatureStandard, Secret: "KEY"}},
		"an unknown signature":  {Subject: "a.b", Signature: &system.Signature{Kind: "x", Secret: "KEY"}},
		"a wildcard to publish": {Subject: "a.*"},
	} {
		if _, err := New(&system.Route{Path: "/", Publish: &p}, map[string]string{"KEY": "no base64!"}); err == nil {
			t.Errorf("%s is compiled", name)
		}
	}
}

func TestTheMediaOfABody(t *testing.T) {
	token := &system.Signature{Kind: system.SignatureToken, Secret: "KEY", Header: "X-Token"}
	tests := []struct {
		name   string
		proof  *system.Signature
		header []string
		want   string
	}{
		{"an empty word", nil, []string{"Content-Type", ""}, "415"},
		{"two", nil, []string{"Content-Type", "application/json", "Content-Type", "text/plain"}, "415"},
		{"json", nil, []string{"Content-Type", "application/json; charset=utf-8"}, ""},
		{"xml", nil, []string{"Content-Type", "application/xml"}, ""},
		{"a form", nil, []string{"Content-Type", "application/x-www-form-urlencoded"}, "415"},
		{"plain text in capitals", nil, []string{"Content-Type", "Text/Plain;charset=x"}, "415"},
		{"compressed", nil, []string{"Content-Encoding", "gzip"}, "415"},
		{"a form that is signed", token, []string{"Content-Type", "application/x-www-form-urlencoded", "X-Token", "It's a Secret to Everybody"}, ""},
	}
	for _, tt := range tests {
		if _, err := made(t, system.Publish{Signature: tt.proof}, "x", tt.header...); wrong(err) != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestWhatMakesMessagesTheSame(t *testing.T) {
	fields := []string{"body.event_type", "body.payload.id", "header.X-Shop"}
	key := func(body, shop string) string {
		t.Helper()
		m, err := made(t, system.Publish{Dedupe: fields}, body, "X-Shop", shop)
		if err != nil || m.Key == "" {
			t.Fatalf("%s: %+v, %v", body, m, err)
		}
		return m.Key
	}
	first := key(`{"event_type":"a","payload":{"id":7}}`, "s")
	for name, other := range map[string]string{
		"spelled otherwise": key(`{ "payload": {"id":7, "x":1}, "event_type":"\u0061" }`, "s"),
	} {
		if other != first {
			t.Errorf("%s is another", name)
		}
	}
	for name, other := range map[string]string{
		"another number":  key(`{"event_type":"a","payload":{"id":8}}`, "s"),
		"a text":          key(`{"event_type":"a","payload":{"id":"7"}}`, "s"),
		"another header":  key(`{"event_type":"a","payload":{"id":7}}`, "t"),
		"shifted":         key(`{"event_type":"a7","payload":{"id":""}}`, "s"),
		"an object there": key(`{"event_type":"a","payload":{"id":{"7":1}}}`, "s"),
	} {
		if other == first {
			t.Errorf("%s is the same", name)
		}
	}
}

func TestWhatIsMissingOfAKey(t *testing.T) {
	tests := []struct{ field, body, want string }{
		{"body.a", `{"a":0}`, ""},
		{"body.a", `{"a":false}`, ""},
		{"body.a.1.b", `{"a":[1,{"b":2}]}`, ""},
		{"body.a", `{"b":1}`, "fault /a"},
		{"body.a", `{"a":null}`, "fault /a"},
		{"body.a.b.c", `{"a":{"x":1}}`, "fault /a/b"},
		{"body.a/b", `{}`, "fault /a~1b"},
		{"body.a.7", `{"a":[1]}`, "fault /a/7"},
		{"body.a.-1", `{"a":[1]}`, "fault /a/-1"},
		{"body.a", `"text"`, "fault /a"},
		{"body.a", `null`, "fault "},
		{"body.a", ``, "fault "},
		{"body.a", `{`, "fault "},
		{"header.X-Id", `x`, "fault "},
	}
	for _, tt := range tests {
		if _, err := made(t, system.Publish{Dedupe: []string{tt.field}}, tt.body); wrong(err) != tt.want {
			t.Errorf("%s of %s: %v, want %q", tt.field, tt.body, err, tt.want)
		}
	}
	if _, err := made(t, system.Publish{Dedupe: []string{"header.X-Id"}}, "", "X-Id", "1", "X-Id", "2"); wrong(err) != "fault " {
		t.Errorf("a header that is there twice: %v", err)
	}
}

func TestAnIdempotencyKeyIsOfOneSubjectAndUser(t *testing.T) {
	route, err := New(&system.Route{Path: "/{a}", Publish: &system.Publish{Subject: "x.{a}"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := func(a, user, key string) string {
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", key)
		m, err := route.Message(r, nil, match.Values{{Name: "a", Value: a}}, user)
		if err != nil {
			return wrong(err)
		}
		return m.ID
	}
	first := id("a", "u", "k")
	if first == "" || id("a", "u", "k") != first {
		t.Errorf("the same is not: %s", first)
	}
	for _, other := range []string{id("b", "u", "k"), id("a", "v", "k"), id("a", "u", "l")} {
		if other == first {
			t.Error("another is the same")
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 2000)} {
		if got := id("a", "u", bad); got != "400" {
			t.Errorf("a key of %d bytes: %s", len(bad), got)
		}
	}
}

func TestSignatures(t *testing.T) {
	const body = "Hello, World!"
	// Of GitHub's documentation.
	const hub = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	now := time.Now()
	at := strconv.FormatInt(now.Unix(), 10)
	old := strconv.FormatInt(now.Add(-6*time.Minute).Unix(), 10)
	future := strconv.FormatInt(now.Add(6*time.Minute).Unix(), 10)
	sum := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	striped := func(at, body string) string {
		return hex.EncodeToString(sum([]byte("It's a Secret to Everybody"), at+"."+body))
	}
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	std := func(id, at, body string) string {
		return "v1," + base64.StdEncoding.EncodeToString(sum(key, id+"."+at+"."+body))
	}
	webhook := func(id, at, signature string) []string {
		return []string{"webhook-id", id, "webhook-timestamp", at, "webhook-signature", signature}
	}
	tests := []struct {
		name   string
		kind   string
		header []string
		proven bool
	}{
		{"github", "github", []string{"X-Hub-Signature-256", hub}, true},
		{"github, missing", "github", nil, false},
		{"github, another", "github", []string{"X-Hub-Signature-256", strings.Replace(hub, "7571", "7572", 1)}, false},
		{"github, cut", "github", []string{"X-Hub-Signature-256", hub[:20]}, false},
		{"github, no scheme", "github", []string{"X-Hub-Signature-256", hub[7:]}, false},
		{"github, empty", "github", []string{"X-Hub-Signature-256", "sha256="}, false},
		{"github, twice", "github", []string{"X-Hub-Signature-256", hub, "X-Hub-Signature-256", hub}, false},
		{"stripe", "stripe", []string{"Stripe-Signature", "t=" + at + ",v1=" + striped(at, body) + ",v0=00"}, true},
		{"stripe, the second", "stripe", []string{"Stripe-Signature", "t=" + at + ",v1=00,v1=" + striped(at, body)}, true},
		{"stripe, old", "stripe", []string{"Stripe-Signature", "t=" + old + ",v1=" + striped(old, body)}, false},
		{"stripe, of the future", "stripe", []string{"Stripe-Signature", "t=" + future + ",v1=" + striped(future, body)}, false},
		{"stripe, another body", "stripe", []string{"Stripe-Signature", "t=" + at + ",v1=" + striped(at, "x")}, false},
		{"stripe, two times", "stripe", []string{"Stripe-Signature", "t=" + at + ",t=" + at + ",v1=" + striped(at, body)}, false},
		{"stripe, only the old scheme", "stripe", []string{"Stripe-Signature", "t=" + at + ",v0=" + striped(at, body)}, false},
		{"stripe, no time", "stripe", []string{"Stripe-Signature", "v1=" + striped("", body)}, false},
		{"standard", "standard", webhook("msg_1", at, std("msg_1", at, body)), true},
		{"standard, the second", "standard", webhook("msg_1", at, "v1a,AAAA "+std("msg_1", at, body)), true},
		{"standard, old", "standard", webhook("msg_1", old, std("msg_1", old, body)), false},
		{"standard, another id", "standard", webhook("msg_2", at, std("msg_1", at, body)), false},
		{"standard, no id", "standard", webhook("", at, std("", at, body)), false},
		{"standard, missing", "standard", nil, false},
		{"token", "token", []string{"X-Token", "It's a Secret to Everybody"}, true},
		{"token, another", "token", []string{"X-Token", "It's a Secret to everybody"}, false},
		{"token, missing", "token", nil, false},
		{"token, twice", "token", []string{"X-Token", "It's a Secret to Everybody", "X-Token", "x"}, false},
	}
	for _, tt := range tests {
		s := &system.Signature{Kind: tt.kind, Secret: "KEY", Header: "X-Token"}
		if tt.kind == "standard" {
			s.Secret = "STD"
		}
		want := "unproven"
		if tt.proven {
			want = ""
		}
		if _, err := made(t, system.Publish{Signature: s}, body, tt.header...); wrong(err) != want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// FuzzSignature: nothing panics, and nobody guesses.
func FuzzSignature(f *testing.F) {
	f.Add("t=1,v1=00", "1", "v1,AAAA")
	f.Add("sha256=00", "", " , ,")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		h := http.Header{
			"Stripe-Signature": {a}, "X-Hub-Signature-256": {a}, "Webhook-Id": {a}, "Webhook-Timestamp": {b}, "Webhook-Signature": {c},
		}
		now := time.Unix(1, 0)
		if github([]byte("k"), h, nil) || stripe([]byte("k"), h, nil, now) || standard([]byte("k"), h, nil, now) {
			t.Errorf("%q, %q, %q prove something", a, b, c)
		}
	})
}

// FuzzKey: nothing panics, and a key that is read is read again.
func FuzzKey(f *testing.F) {
	f.Add("body.a.b", []byte(`{"a":{"b":[1,2]}}`))
	f.Add("body.0", []byte(`[1e400]`))
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		parsed, err := parseField(name)
		if err != nil || parsed.header != "" {
			return
		}
		key, err := keyOf([]field{parsed}, nil, body)
		again, err2 := keyOf([]field{parsed}, nil, body)
		if key != again || (err == nil) != (err2 == nil) || (err == nil) != (key != "") {
			t.Errorf("%q of %q: %q, %v; again %q, %v", name, body, key, err, again, err2)
		}
	})
}

func BenchmarkMessage(bench *testing.B) {
	route, err := New(&system.Route{Path: "/", Publish: &system.Publish{
		Subject: "orders.incoming", Dedupe: []string{"body.event_type", "body.payload.id"},
		Signature: &system.Signature{Kind: system.SignatureGitHub, Secret: "KEY"},
	}}, map[string]string{"KEY": "k"})
	if err != nil {
		bench.Fatal(err)
	}
	body := []byte(`{"event_type":"order","payload":{"id":7,"text":"` + strings.Repeat("x", 400) + `"}}`)
	r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac([]byte("k"), body)))
	bench.ReportAllocs()
	for bench.Loop() {
		if _, err := route.Message(r, body, nil, ""); err != nil {
			bench.Fatal(err)
		}
	}
}

package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
	"fairlead/test/await"
)

type findRequest struct {
	HS    string    `json:"hs"`
	Year  int       `json:"year"`
	Page  *uint8    `json:"page,omitempty"`
	Exact bool      `json:"exact,omitempty"`
	Parts []int     `json:"parts,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

func echo(_ context.Context, r findRequest) (findRequest, error) { return r, nil }

func TestAnswerCarriesTypes(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "t.struct", echo)
		Answer(s, "t.bytes", func(_ context.Context, b []byte) ([]byte, error) { return append([]byte("got "), b...), nil })
		Answer(s, "t.raw", func(_ context.Context, b json.RawMessage) (json.RawMessage, error) { return b, nil })
		Answer(s, "t.nothing", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
		Answer(s, "t.reply", func(_ context.Context, b []byte) (Reply[findRequest], error) {
			return Reply[findRequest]{Status: http.StatusCreated, Body: findRequest{HS: string(b)}}, nil
		})
		Answer(s, "t.csv", func(context.Context, struct{}) (Reply[[]byte], error) {
			return Reply[[]byte]{Type: "text/csv", Body: []byte("a,b")}, nil
		})
		Answer(s, "t.badstatus", func(context.Context, struct{}) (Reply[struct{}], error) {
			return Reply[struct{}]{Status: 404}, nil
		})
		Answer(s, "t.badvalue", func(context.Context, struct{}) (any, error) { return func() {}, nil })
		Answer(s, "t.wild.*", func(ctx context.Context, _ struct{}) (string, error) { return Subject(ctx), nil })
		return nil
	})
	tests := []struct{ name, subject, body, want string }{
		{"struct", "t.struct", `{"hs":"0101","year":2023}`, `{"hs":"0101","year":2023}`},
		{"no body", "t.struct", ``, `{"hs":"","year":0}`},
		{"query strings", "t.struct", `{"hs":"0101","year":"2023","page":"2","exact":"true","parts":["1","2"]}`, `{"hs":"0101","year":2023,"page":2,"exact":true,"parts":[1,2]}`},
		{"one for a list", "t.struct", `{"parts":"7"}`, `{"hs":"","year":0,"parts":[7]}`},
		{"string that is no number", "t.struct", `{"year":"now"}`, `400 year must be a whole number of 64 bits, is a string (at byte 13)`},
		{"number too large", "t.struct", `{"page":256}`, `400 page must be a whole number of 8 bits, not negative, is a number 256 (at byte 11)`},
		{"number for a string", "t.struct", `{"hs":101}`, `400 hs must be a string, is a number (at byte 9)`},
		{"list", "t.struct", `[1]`, `400 the request must be an object, is a list`},
		{"time", "t.struct", `{"since":"yesterday"}`, `400 "yesterday" is not a time as in RFC 3339`},
		{"cut off", "t.struct", `{"hs":`, `400 the request is not valid JSON, at byte 6: unexpected end of JSON input`},
		{"not JSON", "t.struct", `hello`, `400 the request is not valid JSON, at byte 1: invalid character 'h' looking for beginning of value`},
		{"bytes", "t.bytes", "\x00\xff", " application/octet-stream got \x00\xff"},
		{"raw", "t.raw", ` {"a" : 1}`, ` {"a" : 1}`},
		{"raw is checked", "t.raw", `{a}`, `400 the request is not valid JSON, at byte 2: invalid character 'a' looking for beginning of object key string`},
		{"nothing", "t.nothing", `not looked at`, `204  `},
		{"status", "t.reply", `x`, `201  {"hs":"x","year":0}`},
		{"media type", "t.csv", ``, ` text/csv a,b`},
		{"error as status", "t.badstatus", ``, `500 internal error`},
		{"no JSON form", "t.badvalue", ``, `500 internal error`},
		{"wildcard", "t.wild.fr", ``, `"t.wild.fr"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := result(request(nc, tt.subject, tt.body)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestAnswerErrors(t *testing.T) {
	srv := startBus(t, server.Options{MaxPayload: 32 << 10})
	nc := busConn(t, srv)
	var goexits atomic.Int32
	i := start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		fail := func(subject string, err error) {
			Answer(s, subject, func(context.Context, struct{}) (struct{}, error) { return struct{}{}, err })
		}
		fail("e.public", Errorf(http.StatusNotFound, "commodity %s is not known", "0101"))
		fail("e.cause", Errorf(http.StatusConflict, "the name is taken: %w", errors.New("secret cause one")))
		fail("e.wrapped", fmt.Errorf("secret wrapping: %w", &Error{Status: 422, Public: "no"}))
		fail("e.plain", errors.New("secret cause two"))
		fail("e.status", &Error{Status: 200, Public: "secret public"})
		fail("e.empty", &Error{Status: 404})
		fail("e.lines", &Error{Status: 400, Public: "a\r\nNats-Service-Error-Code: 200\tb"})
		fail("e.huge", &Error{Status: 400, Public: strings.Repeat("é", 40<<10)})
		Answer(s, "e.panic", func(context.Context, struct{}) (struct{}, error) { panic("secret panic") })
		Answer(s, "e.goexit", func(_ context.Context, b []byte) (string, error) {
			if goexits.Add(1) == 1 {
				runtime.Goexit()
			}
			return "alive", nil
		}, AnswerOptions{Concurrency: 1})
		Answer(s, "e.large", func(context.Context, struct{}) ([]byte, error) { return make([]byte, 32<<10+1), nil })
		Answer(s, "e.headroom", func(context.Context, struct{}) ([]byte, error) { return make([]byte, 32<<10-10), nil })
		return nil
	})
	tests := []struct{ subject, want string }{
		{"e.public", "404 commodity 0101 is not known"},
		{"e.cause", "409 the name is taken"},
		{"e.wrapped", "422 no"},
		{"e.plain", "500 internal error"},
		{"e.status", "500 internal error"},
		{"e.empty", "404 not found"},
		{"e.lines", "400 a  Nats-Service-Error-Code: 200 b"},
		{"e.huge", "400 " + strings.Repeat("é", maxErrorHeader/2)},
		{"e.panic", "500 internal error"},
		{"e.goexit", "500 internal error"},
		{"e.goexit", `"alive"`},
		{"e.large", "500 the reply is too large for the bus"},
		{"e.headroom", "500 the reply is too large for the bus"},
	}
	for _, tt := range tests {
		t.Run(tt.subject, func(t *testing.T) {
			m, err := request(nc, tt.subject, "")
			if got := result(m, err); got != tt.want {
				t.Fatalf("got  %s\nwant %s", got, tt.want)
			}
			if strings.Contains(string(m.Data)+fmt.Sprint(m.Header), "secret") {
				t.Errorf("a private text was sent: %s %v", m.Data, m.Header)
			}
			if len(m.Data) > 0 && m.Header[wire.HeaderType] != nil {
				var p wire.Problem
				if err := json.Unmarshal(m.Data, &p); err != nil || fmt.Sprint(p.Status) != m.Header[wire.HeaderErrorCode][0] || p.RequestID == "" {
					t.Errorf("problem %+v, %v", p, err)
				}
			}
		})
	}
	for _, want := range []string{"secret cause one", "secret cause two", "secret wrapping", "secret public", "secret panic"} {
		if !strings.Contains(i.log.String(), want) {
			t.Errorf("%q is not in the log", want)
		}
	}
	if r := i.log.records(t, "handler panicked"); len(r) != 1 || !strings.Contains(fmt.Sprint(r[0]["stack"]), "answer_test.go") {
		t.Errorf("panic is logged as %v", r)
	}
	if err := i.stop(); err != nil {
		t.Errorf("stop after a Goexit: %v", err)
	}
}

func TestAnswerIsBoundedAndSaysSo(t *testing.T) {
	const limit, waiting, more = 3, 4, 5
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	var running, most atomic.Int32
	release := make(chan struct{})
	i := start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "slow", func(_ context.Context, n int) (int, error) {
			now := running.Add(1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			<-release
			running.Add(-1)
			return n, nil
		}, AnswerOptions{Concurrency: limit, Waiting: waiting})
		return nil
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	results := map[string]int{}
	for n := range limit + waiting + more {
		wg.Go(func() {
			got := result(request(nc, "slow", fmt.Sprint(n)))
			if got == fmt.Sprint(n) {
				got = "handled"
			}
			mu.Lock()
			results[got]++
			mu.Unlock()
		})
	}
	await.Until(t, "the surplus is refused while handlers run", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return results["503 too many requests are waiting"] == more
	})
	e := i.svc.endpoints[0]
	await.Until(t, "as many handlers run as may, one worker calls the next", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.active == limit && e.workers == limit && e.waiting() == waiting && running.Load() == limit
	})
	close(release)
	wg.Wait()
	if results["handled"] != limit+waiting || most.Load() != limit {
		t.Errorf("%v, at most %d at a time", results, most.Load())
	}
	if n := len(i.log.records(t, "requests refused, as many wait as may")); n == 0 || n > 2 {
		t.Errorf("refusals were logged %d times", n)
	}
}

func TestAnswerKeepsOrderOfWaiting(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	release := make(chan struct{})
	var order []int
	start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "one", func(_ context.Context, n int) (int, error) {
			<-release
			order = append(order, n)
			return n, nil
		}, AnswerOptions{Concurrency: 1, Waiting: 5000})
		return nil
	})
	const n = 4000 // beyond the point where the queue is compacted
	inbox := nats.NewInbox()
	replies, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := nc.PublishRequest("one", inbox, []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	for range n {
		if _, err := replies.NextMsg(await.Patience); err != nil {
			t.Fatal(err)
		}
	}
	for i, got := range order {
		if got != i {
			t.Fatalf("request %d was handled as number %d", got, i)
		}
	}
}

func TestAnswerDeadline(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	handled := make(chan struct{}, 10)
	start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "d", func(ctx context.Context, _ struct{}) (struct{}, error) {
			handled <- struct{}{}
			<-ctx.Done()
			return struct{}{}, ctx.Err()
		})
		return nil
	})
	// On a slow machine the first deadlines have passed before the handler begins.
	for d := 30 * time.Millisecond; len(handled) == 0; d *= 2 {
		if got := result(request(nc, "d", "", wire.HeaderDeadline, wire.FormatDeadline(time.Now().Add(d)))); got != "504 the request took too long" {
			t.Fatalf("during the handler: %s", got)
		}
	}
	<-handled
	if got := result(request(nc, "d", "", wire.HeaderDeadline, wire.FormatDeadline(time.Now().Add(-time.Second)))); got != "504 the request took too long" {
		t.Errorf("before the handler: %s", got)
	}
	if len(handled) != 0 {
		t.Error("a request that nobody waits for was handled")
	}
}

func TestAnswerIdentity(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	env := testEnv(t, srv, "tradeflow")
	i := start(t, env, func(s *Service) error {
		Answer(s, "who", func(ctx context.Context, _ struct{}) (string, error) {
			id, ok := User(ctx)
			return fmt.Sprintf("%s %v", id.Subject, ok), nil
		})
		s.HTTP("GET /who", func(w http.ResponseWriter, r *http.Request) error {
			id, ok := User(r.Context())
			_, err := fmt.Fprintf(w, "%s %v", id.Subject, ok)
			return err
		})
		return nil
	})
	good := signed(t, "tradeflow")
	forged, err := wire.NewSigner(func() []byte { k := append([]byte(nil), testPrivate...); k[0] ^= 1; return k }(), "commerce").Sign(Identity{Subject: "admin", Service: "tradeflow"})
	if err != nil {
		t.Fatal(err)
	}
	old, err := testSigner.Sign(Identity{Subject: "u", Service: "tradeflow", Issued: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	const refused = "401 the identity is not valid"
	tests := []struct {
		name   string
		header []string
		want   string
	}{
		{"anonymous", nil, " false"},
		{"verified", []string{wire.HeaderIdentity, good}, "user-1 true"},
		{"empty", []string{wire.HeaderIdentity, ""}, refused},
		{"forged", []string{wire.HeaderIdentity, forged}, refused},
		{"plain text", []string{wire.HeaderIdentity, "user-1"}, refused},
		{"expired", []string{wire.HeaderIdentity, old}, refused},
		{"for another service", []string{wire.HeaderIdentity, signed(t, "auth")}, refused},
		{"two", []string{wire.HeaderIdentity, good, wire.HeaderIdentity, good}, refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Trim(result(request(nc, "who", "", tt.header...)), `"`); got != tt.want {
				t.Errorf("bus: got %q, want %q", got, tt.want)
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://s/who", nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Add(tt.header[i], tt.header[i+1])
			}
			res, body := do(t, i.client(t), r)
			if got := body; tt.want != refused && got != tt.want || tt.want == refused && res.StatusCode != http.StatusUnauthorized {
				t.Errorf("HTTP: got %d %q", res.StatusCode, got)
			}
		})
	}
	t.Run("other spelling is nothing", func(t *testing.T) {
		if got := result(request(nc, "who", "", "fairlead-identity", good)); got != `" false"` {
			t.Errorf("got %s", got)
		}
	})
	for _, r := range i.log.records(t, "request failed") {
		if r["level"] != "WARN" {
			t.Errorf("a forgery is logged as %v", r)
		}
		if strings.Contains(fmt.Sprint(r), good) || strings.Contains(fmt.Sprint(r), forged) {
			t.Error("a token is in the log")
		}
	}

	delete(env, wire.EnvIdentityKey)
	env[wire.EnvSocket] += "2"
	env[wire.EnvInstance] = "tradeflow-2"
	if err := i.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, env, func(s *Service) error {
		Answer(s, "who", func(context.Context, struct{}) (string, error) { return "", nil })
		return nil
	})
	if got := result(request(nc, "who", "", wire.HeaderIdentity, good)); got != refused {
		t.Errorf("without a key: %s", got)
	}
}

func TestAnswerRefusesBadRegistrations(t *testing.T) {
	srv := startBus(t, server.Options{})
	i := launch(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		for _, subject := range []string{"", "a..b", ".a", "a.", "a b", "a.>.b", "a\r\nb"} {
			Answer(s, subject, echo)
		}
		Answer(s, "twice", echo)
		Answer(s, "twice", echo)
		Answer(s, "negative", echo, AnswerOptions{Concurrency: -1})
		Subscribe(s, "a..b", func(context.Context, struct{}) error { return nil })
		s.HTTP("GET /a/{x}", nil)
		s.HTTP("GET /a/{y}", nil)
		s.HTTP("nonsense", nil)
		s.Secret("NO_SUCH")
		s.Database("none")
		return errors.New("own error")
	})
	<-i.done
	if i.err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"own error", `answer ""`, `answer "a..b"`, `answer ".a"`, `answer "a."`, `answer "a b"`, `answer "a.>.b"`,
		`answer "twice": it is answered already`, `answer "negative"`, `subscribe "a..b"`, `serve "GET /a/{y}"`, `serve "nonsense"`,
		"secret NO_SUCH", `open database "none": DATABASE_URL_NONE is not set`,
	} {
		if !strings.Contains(i.err.Error(), want) {
			t.Errorf("%q is not in %v", want, i.err)
		}
	}
}

func TestMicroToolsSeeTheService(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	env := testEnv(t, srv, "tradeflow")
	env[wire.EnvGroup] = "tradeflow_queue"
	i := start(t, env, func(s *Service) error {
		Answer(s, "tradeflow.find", echo)
		Answer(s, "slow.*", func(ctx context.Context, _ struct{}) (struct{}, error) {
			<-time.After(20 * time.Millisecond)
			return struct{}{}, Errorf(404, "none")
		})
		return nil
	})
	for range 3 {
		if got := result(request(nc, "slow.x", "")); got != "404 none" {
			t.Fatal(got)
		}
	}
	await.Until(t, "all are counted, which is after their replies", func() bool { return i.svc.endpoints[1].stats().NumRequests == 3 })
	for _, to := range []string{"", ".tradeflow", ".tradeflow.tradeflow-1"} {
		for _, verb := range []string{"PING", "INFO", "STATS"} {
			m, err := request(nc, "$SRV."+verb+to, "")
			if err != nil {
				t.Fatalf("%s%s: %v", verb, to, err)
			}
			var got struct {
				Name, ID, Type string
				Endpoints      []struct {
					Name, Subject  string
					QueueGroup     string        `json:"queue_group"`
					NumRequests    int           `json:"num_requests"`
					NumErrors      int           `json:"num_errors"`
					LastError      string        `json:"last_error"`
					ProcessingTime time.Duration `json:"processing_time"`
				}
			}
			if err := json.Unmarshal(m.Data, &got); err != nil {
				t.Fatal(err)
			}
			if got.Name != "tradeflow" || got.ID != "tradeflow-1" || got.Type != "io.nats.micro.v1."+strings.ToLower(verb)+"_response" {
				t.Errorf("%s%s: %s", verb, to, m.Data)
			}
			if verb == "PING" {
				continue
			}
			if len(got.Endpoints) != 2 || got.Endpoints[1].Name != "slow_any" || got.Endpoints[0].QueueGroup != "tradeflow_queue" {
				t.Fatalf("%s%s: %s", verb, to, m.Data)
			}
			if e := got.Endpoints[1]; verb == "STATS" && (e.NumRequests != 3 || e.NumErrors != 3 || e.LastError != "404: none" || e.ProcessingTime < 60*time.Millisecond) {
				t.Errorf("stats are not true: %s", m.Data)
			}
		}
	}
}

// TestReplyGoesToInboxesOnly: the bus lets an asker name any reply subject, and the
// reply would be a message that this service sends.
func TestReplyGoesToInboxesOnly(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	i := start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "echo", echo)
		return nil
	})
	others, err := nc.SubscribeSync("bank.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"echo", "$SRV.PING.tradeflow"} {
		for _, reply := range []string{"bank.pay", "bank._FL.x", "bank._INBOX.x"} {
			if err := nc.PublishRequest(subject, reply, []byte(`{"hs": "8517"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, prefix := range []string{"_INBOX.", "_FL.gateway.x."} {
		inbox, err := nc.SubscribeSync(prefix + "1")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("echo", prefix+"1", []byte(`{"hs": "8517"}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := inbox.NextMsg(await.Patience); err != nil {
			t.Errorf("no reply in %s: %v", prefix, err)
		}
	}
	if err := i.stop(); err != nil { // all is handled and flushed
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := others.Pending(); err != nil || n != 0 {
		t.Errorf("%d replies went elsewhere, %v", n, err)
	}
	if told := i.log.records(t, "request asks for its reply elsewhere than in an inbox: it gets none"); len(told) != 1 || told[0]["level"] != "WARN" {
		t.Errorf("the log has %v, want one warning", told)
	}
}

package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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

func echoService(s *Service) error {
	Answer(s, "echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	return nil
}

func TestNoStartOrder(t *testing.T) {
	srv := startBus(t, server.Options{})
	url := srv.ClientURL()
	srv.Shutdown()
	srv.WaitForShutdown()
	env := testEnv(t, nil, "early")
	env[wire.EnvNATSURL] = url
	i := launch(t, env, func(s *Service) error {
		if err := echoService(s); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(s.Context(), 5*time.Millisecond)
		defer cancel()
		if _, err := Ask[struct{}, struct{}](ctx, s, "x", struct{}{}); !strings.Contains(fmt.Sprint(err), "503 the bus cannot be reached") {
			t.Errorf("Ask without a bus: %v", err)
		}
		return nil
	})
	await.Until(t, "it waits", func() bool { return strings.Contains(i.log.String(), "waiting for the bus") })
	again := startBus(t, server.Options{Port: portOf(t, url)})
	await.Until(t, "it answers", func() bool {
		nc := busConn(t, again)
		defer nc.Close()
		m, err := nc.Request("echo", []byte("x"), await.Patience)
		return err == nil && string(m.Data) == "x"
	})
	if err := i.stop(); err != nil {
		t.Error(err)
	}

	t.Run("stops while it waits", func(t *testing.T) {
		again.Shutdown()
		again.WaitForShutdown()
		i := launch(t, env, echoService)
		await.Until(t, "it waits", func() bool { return strings.Contains(i.log.String(), "waiting for the bus") })
		if err := i.stop(); err != nil {
			t.Error(err)
		}
	})
}

func portOf(t *testing.T, url string) int {
	t.Helper()
	var port int
	if _, err := fmt.Sscanf(url, "nats://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	return port
}

func TestReconnectsSoon(t *testing.T) {
	srv := startBus(t, server.Options{})
	url := srv.ClientURL()
	i := start(t, testEnv(t, srv, "tradeflow"), echoService)
	var took []time.Duration
	for range 5 {
		srv.Shutdown()
		srv.WaitForShutdown()
		await.Until(t, "the loss is noticed", func() bool { return !i.svc.conn.IsConnected() })
		srv = startBus(t, server.Options{Port: portOf(t, url)})
		begin := time.Now()
		nc := busConn(t, srv)
		for {
			m, err := nc.Request("echo", []byte("x"), await.Patience)
			if err == nil && string(m.Data) == "x" {
				break
			}
			if !errors.Is(err, nats.ErrNoResponders) || time.Since(begin) > await.Patience {
				t.Fatal(err)
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("answers again after %s", took)
	// On a machine that does nothing else it is 20 ms; nats.go alone would wait for 2 s.
	if took[0] > time.Second {
		t.Errorf("took %s, want less than a second once", took)
	}
	for range 1000 {
		if d := i.svc.conn.Opts.CustomReconnectDelayCB(1); d > maxReconnectDelay {
			t.Fatalf("it waits for %v", d)
		}
	}
	if err := i.stop(); err != nil {
		t.Error(err)
	}
}

func TestDrainUnderLoadLosesNothing(t *testing.T) {
	srv := startBus(t, server.Options{})
	var handled [3]atomic.Int64
	launchOne := func(n int) *instance {
		env := testEnv(t, srv, "tradeflow")
		env[wire.EnvInstance] = fmt.Sprintf("tradeflow-%d", n)
		return start(t, env, func(s *Service) error {
			Answer(s, "work", func(_ context.Context, b []byte) ([]byte, error) {
				handled[n].Add(1)
				<-time.After(2 * time.Millisecond)
				return b, nil
			})
			return nil
		})
	}
	old := []*instance{launchOne(0), launchOne(1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var sent, failed atomic.Int64
	nc := busConn(t, srv)
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				sent.Add(1)
				m, err := nc.Request("work", []byte("x"), await.Patience)
				if err != nil || string(m.Data) != "x" {
					failed.Add(1)
					t.Errorf("request failed: %s", result(m, err))
				}
			}
		})
	}
	served := func(n int) { // more than now
		t.Helper()
		before := handled[n].Load()
		await.Until(t, "instance serves", func() bool { return handled[n].Load() > before+100 })
	}
	served(0)
	served(1)
	if err := old[0].stop(); err != nil {
		t.Error(err)
	}
	third := launchOne(2)
	served(2)
	if err := old[1].stop(); err != nil {
		t.Error(err)
	}
	served(2)
	cancel()
	wg.Wait()
	if err := third.stop(); err != nil {
		t.Error(err)
	}
	if failed.Load() != 0 || sent.Load() < 300 {
		t.Errorf("%d of %d failed", failed.Load(), sent.Load())
	}
}

func TestDrainFinishesWaitingRequests(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	entered, release := make(chan struct{}, 10), make(chan struct{})
	i := start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "work", func(context.Context, struct{}) (string, error) {
			entered <- struct{}{}
			<-release
			return "done", nil
		}, AnswerOptions{Concurrency: 1})
		return nil
	})
	results := make(chan string, 3)
	for range 3 {
		go func() { results <- result(request(nc, "work", "")) }()
	}
	<-entered
	e := i.svc.endpoints[0]
	await.Until(t, "two wait", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.waiting() == 2
	})
	i.cancel()
	await.Until(t, "no more are taken", func() bool {
		_, err := nc.Request("work", nil, time.Second)
		return errors.Is(err, nats.ErrNoResponders)
	})
	close(release)
	for range 3 {
		if got := <-results; got != `"done"` {
			t.Errorf("got %s", got)
		}
	}
	if err := i.stop(); err != nil {
		t.Error(err)
	}
}

func TestGraceAnswersWhatIsLeft(t *testing.T) {
	t.Parallel()
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	env := testEnv(t, srv, "tradeflow")
	env[wire.EnvGrace] = "5s" // a tenth of it is left for the answers
	entered := make(chan struct{}, 10)
	i := start(t, env, func(s *Service) error {
		Answer(s, "work", func(ctx context.Context, _ struct{}) (string, error) {
			entered <- struct{}{}
			<-ctx.Done()
			return "", ctx.Err()
		}, AnswerOptions{Concurrency: 1})
		return nil
	})
	results := make(chan string, 2)
	for range 2 { // one runs, one waits
		go func() { results <- result(request(nc, "work", "")) }()
	}
	<-entered
	await.Until(t, "both are there", func() bool { return i.svc.endpoints[0].open.count() == 2 })
	if err := i.stop(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if got := <-results; got != "503 service is stopping" {
			t.Errorf("got %s", got)
		}
	}
}

func TestStopWithoutBusIsPrompt(t *testing.T) {
	srv := startBus(t, server.Options{})
	i := start(t, testEnv(t, srv, "tradeflow"), echoService)
	srv.Shutdown()
	srv.WaitForShutdown()
	await.Until(t, "the loss is noticed", func() bool { return !i.svc.conn.IsConnected() })
	begin := time.Now()
	if err := i.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > await.Patience/2 {
		t.Errorf("took %s of a grace period of %s", took, await.Patience)
	}
}

// users returns options with one user per argument, password "p".
func users(perms map[string]*server.Permissions) server.Options {
	var opts server.Options
	for name, p := range perms {
		opts.Users = append(opts.Users, &server.User{Username: name, Password: "p", Permissions: p})
	}
	return opts
}

func TestBusDenies(t *testing.T) {
	allow := func(subjects ...string) *server.SubjectPermission { return &server.SubjectPermission{Allow: subjects} }
	opts := users(map[string]*server.Permissions{
		"tradeflow": {
			Subscribe: allow("tradeflow.> tradeflow", "_FL.tradeflow.>", "$SRV.>"),
			Publish:   allow("model.>", "_FL.>", "_INBOX.>"),
		},
		"all": nil,
	})
	srv := startBus(t, opts)
	env := testEnv(t, srv, "tradeflow")
	env[wire.EnvNATSUser], env[wire.EnvNATSPass] = "tradeflow", "p"

	t.Run("an answer", func(t *testing.T) {
		i := launch(t, env, func(s *Service) error {
			Answer(s, "tradeflow.find", echo)
			Answer(s, "auth.login", echo)
			return nil
		})
		<-i.done
		if !errors.Is(i.err, ErrDenied) || !strings.Contains(i.err.Error(), `answer "auth.login" in group "tradeflow"`) {
			t.Errorf("got %v", i.err)
		}
	})
	t.Run("a subscription", func(t *testing.T) {
		i := launch(t, env, func(s *Service) error {
			Subscribe(s, "data.vhf", func(context.Context, struct{}) error { return nil })
			return nil
		})
		<-i.done
		if !errors.Is(i.err, ErrDenied) {
			t.Errorf("got %v", i.err)
		}
	})
	t.Run("asks and publishes", func(t *testing.T) {
		i := start(t, env, func(s *Service) error {
			Answer(s, "tradeflow.find", echo)
			return nil
		})
		_, err := Ask[struct{}, struct{}](await.Context(t), i.svc, "auth.login", struct{}{}) // not what comes of no answer
		var e *Error
		if !errors.Is(err, ErrDenied) || !errors.As(err, &e) || e.Status != 500 || e.Public != publicInternal {
			t.Errorf("got %v", err)
		}
		if err := Publish(t.Context(), i.svc, "data.vhf", 1); err != nil {
			t.Error(err)
		}
		await.Until(t, "it is logged", func() bool { return strings.Contains(i.log.String(), `"subject":"data.vhf"`) })
	})
	t.Run("all again, to drain", func(t *testing.T) {
		i := start(t, env, func(s *Service) error {
			Answer(s, "tradeflow.slow", func(_ context.Context, b []byte) ([]byte, error) {
				<-time.After(20 * time.Millisecond)
				return b, nil
			})
			return nil
		})
		nc := busConn(t, srv, nats.UserInfo("all", "p"))
		reply := make(chan string)
		go func() { reply <- result(request(nc, "tradeflow.slow", "x")) }()
		await.Until(t, "it is being handled", func() bool { return i.svc.endpoints[0].open.count() == 1 })
		next := opts
		next.Users = append([]*server.User(nil), opts.Users...)
		for k, u := range next.Users {
			if u.Username == "tradeflow" {
				next.Users[k] = &server.User{Username: "tradeflow", Password: "p", Permissions: &server.Permissions{
					Subscribe: allow("_FL.tradeflow.>"), Publish: u.Permissions.Publish,
				}}
			}
		}
		next.Port = portOf(t, srv.ClientURL())
		next.Host, next.NoLog, next.NoSigs = "127.0.0.1", true, true
		if err := srv.ReloadOptions(&next); err != nil {
			t.Fatal(err)
		}
		if got := <-reply; !strings.HasSuffix(got, " x") {
			t.Errorf("the open request got %s", got)
		}
		await.Until(t, "nothing is taken any more", func() bool {
			_, err := nc.Request("tradeflow.slow", nil, time.Second)
			return errors.Is(err, nats.ErrNoResponders)
		})
		if err := i.stop(); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(i.log.String()) {
			if strings.Contains(line, `"WARN"`) || strings.Contains(line, `"ERROR"`) {
				t.Errorf("a drain is no error: %s", line)
			}
		}
	})
}

func TestAsk(t *testing.T) {
	srv := startBus(t, server.Options{MaxPayload: 32 << 10})
	until := time.Now().Add(await.Patience).Truncate(time.Millisecond)
	model := start(t, testEnv(t, srv, "model"), func(s *Service) error {
		Answer(s, "model.find", func(ctx context.Context, r findRequest) (Reply[map[string]any], error) {
			deadline, ok := ctx.Deadline()
			_, user := User(ctx)
			return Reply[map[string]any]{Status: 202, Body: map[string]any{
				"hs": r.HS, "id": RequestID(ctx), "trace": callOf(ctx).trace.TraceID(), "state": callOf(ctx).state,
				"deadline": ok && deadline.Equal(until), "user": user,
			}}, nil
		})
		Answer(s, "model.fail", func(context.Context, struct{}) (struct{}, error) {
			return struct{}{}, Errorf(409, "taken: %w", errors.New("secret"))
		})
		Answer(s, "model.text", func(context.Context, struct{}) ([]byte, error) { return []byte("no JSON"), nil })
		Answer(s, "model.hang", func(ctx context.Context, _ struct{}) (struct{}, error) {
			<-ctx.Done()
			<-s.Context().Done() // beyond the deadline
			return struct{}{}, nil
		})
		return nil
	})
	nc := busConn(t, srv)
	i := start(t, testEnv(t, srv, "tradeflow"), func(s *Service) error {
		Answer(s, "forward", func(ctx context.Context, r findRequest) (Reply[map[string]any], error) {
			return Ask[findRequest, Reply[map[string]any]](ctx, s, "model.find", r)
		})
		Answer(s, "forward.fail", func(ctx context.Context, _ struct{}) (struct{}, error) {
			return Ask[struct{}, struct{}](ctx, s, "model.fail", struct{}{})
		})
		return nil
	})
	t.Run("carries the request on", func(t *testing.T) {
		trace := wire.NewTrace()
		got := result(request(nc, "forward", `{"hs":"0101"}`,
			wire.HeaderRequestID, "req-12345678", wire.HeaderTrace, trace.String(), wire.HeaderState, "v=1",
			wire.HeaderIdentity, signed(t, "tradeflow"),
			wire.HeaderDeadline, wire.FormatDeadline(until)))
		want := fmt.Sprintf(`202  {"deadline":true,"hs":"0101","id":"req-12345678","state":"v=1","trace":"%s","user":false}`, trace.TraceID())
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
	t.Run("error passes on", func(t *testing.T) {
		if got := result(request(nc, "forward.fail", "")); got != "409 taken" {
			t.Errorf("got %s", got)
		}
	})
	ask := func(subject string, timeout time.Duration) *Error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := Ask[struct{}, map[string]any](ctx, i.svc, subject, struct{}{})
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "ask "+subject+": ") {
			t.Fatalf("ask %s: %v", subject, err)
		}
		return e
	}
	t.Run("errors", func(t *testing.T) {
		if e := ask("model.fail", await.Patience); e.Status != 409 || e.Public != "taken" {
			t.Errorf("got %v", e)
		}
		if e := ask("model.text", await.Patience); e.Status != http.StatusBadGateway || strings.Contains(e.Public, "no JSON") {
			t.Errorf("got %v", e)
		}
		if e := ask("model.hang", 20*time.Millisecond); e.Status != http.StatusGatewayTimeout || !errors.Is(e, context.DeadlineExceeded) {
			t.Errorf("got %v", e)
		}
		if e := ask("nobody", await.Patience); e.Status != 503 || !errors.Is(e, ErrUnavailable) {
			t.Errorf("got %v", e)
		}
		if _, err := Ask[struct{}, struct{}](t.Context(), i.svc, "a.*", struct{}{}); err == nil {
			t.Error("a wildcard is accepted")
		}
		_, err := Ask[[]byte, struct{}](t.Context(), i.svc, "model.find", make([]byte, 33<<10))
		var e *Error
		if !errors.As(err, &e) || e.Status != 413 {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Ask[struct{}, struct{}](ctx, i.svc, "nobody", struct{}{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("waits for whom it asks", func(t *testing.T) {
		got := make(chan error, 1)
		go func() {
			_, err := Ask[struct{}, struct{}](await.Context(t), i.svc, "late", struct{}{})
			got <- err
		}()
		await.Until(t, "it has asked", func() bool { return i.svc.conn.Stats().OutMsgs > 5 })
		start(t, testEnv(t, srv, "late"), func(s *Service) error {
			Answer(s, "late", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
			return nil
		})
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
	if err := model.stop(); err != nil {
		t.Error(err)
	}
}

func TestPublishSubscribe(t *testing.T) {
	srv := startBus(t, server.Options{})
	var mu sync.Mutex
	got := map[string][]int{}
	ids := map[string]bool{}
	setup := func(s *Service) error {
		Subscribe(s, "data.*", func(ctx context.Context, n int) error {
			if n == 5 {
				panic("five")
			}
			mu.Lock()
			defer mu.Unlock()
			got[s.Instance()] = append(got[s.Instance()], n)
			ids[RequestID(ctx)+Subject(ctx)] = true
			return nil
		})
		return nil
	}
	a := start(t, testEnv(t, srv, "a"), setup)
	start(t, testEnv(t, srv, "b"), setup)
	ctx := &callContext{Context: t.Context(), call: call{requestID: "req-12345678", trace: wire.NewTrace()}}
	for n := range 10 {
		if err := Publish(ctx, a.svc, "data.x", n); err != nil {
			t.Fatal(err)
		}
		if err := Publish(ctx, a.svc, "data.x", "not a number"); err != nil {
			t.Fatal(err)
		}
	}
	await.Until(t, "all arrive", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got["a-1"]) == 9 && len(got["b-1"]) == 9
	})
	mu.Lock()
	defer mu.Unlock()
	for name, ns := range got {
		if fmt.Sprint(ns) != "[0 1 2 3 4 6 7 8 9]" {
			t.Errorf("%s got %v", name, ns)
		}
	}
	if len(ids) != 1 || !ids["req-12345678data.x"] {
		t.Errorf("contexts were %v", ids)
	}
	if n := len(a.log.records(t, "handler panicked")); n != 1 {
		t.Errorf("%d panics logged", n)
	}
}

func TestStopFlushesPublished(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	sub, err := nc.SubscribeSync("last.words")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	i := start(t, testEnv(t, srv, "a"), func(s *Service) error { return nil })
	for range 1000 {
		if err := Publish(t.Context(), i.svc, "last.words", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.stop(); err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		if _, err := sub.NextMsg(await.Patience); err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
	}
}

func TestWithoutBus(t *testing.T) {
	i := launch(t, testEnv(t, nil, "x"), func(s *Service) error {
		Answer(s, "a", echo)
		Subscribe(s, "b", func(context.Context, struct{}) error { return nil })
		if err := Publish(s.Context(), s, "c", 1); !errors.Is(err, ErrNoBus) {
			t.Errorf("got %v", err)
		}
		if _, err := Ask[int, int](s.Context(), s, "c", 1); !errors.Is(err, ErrNoBus) {
			t.Errorf("got %v", err)
		}
		return nil
	})
	if <-i.done; !errors.Is(i.err, ErrNoBus) {
		t.Errorf("got %v", i.err)
	}
}

func TestStartStopStress(t *testing.T) {
	srv := startBus(t, server.Options{})
	nc := busConn(t, srv)
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		for ctx.Err() == nil {
			_, _ = nc.Request("echo", []byte("x"), 100*time.Millisecond)
		}
	})
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for k := range 10 {
				env := testEnv(t, srv, "s")
				env[wire.EnvInstance] = fmt.Sprintf("s-%d-%d", n, k)
				i := launch(t, env, echoService)
				if k%2 == 0 {
					await.Until(t, "it runs", func() bool { return strings.Contains(i.log.String(), "service runs") })
				}
				if err := i.stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	load.Wait()
}

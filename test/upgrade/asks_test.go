package upgrade_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/service"
	"fairlead/test/await"
	"fairlead/test/stage"
)

// The services are written with package service. What they do cannot be taken back: it
// is a line in a file.
const asksText = `
system: asks
gateway: {listen: "127.0.0.1:0"}
services:
  front: {command: [SELF, role, front], bus: {group: front, asks: ["middle.>"], publishes: ["jobs.>"]}}
  middle: {command: [SELF, role, middle], replicas: 2, bus: {group: middle, answers: ["middle.>"], asks: ["leaf.>"]}}
  leaf: {command: [SELF, role, leaf], environment: {RECORD: "DIR/done.txt"}, bus: {group: leaf, answers: ["leaf.>"]}}
  worker: {command: [SELF, role, worker], replicas: 2, environment: {RECORD: "DIR/handled.txt"}, bus: {subscribes: ["jobs.>"]}}
queues: {"jobs.>": {}}
routes:
  POST /front/{id}: {service: front}
  POST /bus/{id}: {request: middle.do}
  POST /jobs/{id}: {publish: jobs.x}
  POST /begin: {service: front}
  POST /end: {service: front}
`

var roles = map[string]func(*service.Service) error{
	"front": front,
	"middle": func(s *service.Service) error {
		service.Answer(s, "middle.do", func(ctx context.Context, in task) (task, error) {
			return service.Ask[task, task](ctx, s, "leaf.do", in)
		})
		return nil
	},
	"leaf": func(s *service.Service) error {
		service.Answer(s, "leaf.do", func(_ context.Context, in task) (task, error) { return in, record(in.ID) })
		return nil
	},
	"worker": func(s *service.Service) error {
		service.Subscribe(s, "jobs.*", func(ctx context.Context, in task) error {
			select { // so that some are being handled when the bus closes
			case <-time.After(rand.N(20 * time.Millisecond)):
			case <-ctx.Done():
				return ctx.Err()
			}
			return record(in.ID)
		}, service.SubscribeOptions{Name: "take", AckWait: 2 * time.Second})
		return nil
	},
}

type task struct {
	ID string `json:"id"`
}

// record writes a line, whole.
func record(line string) error {
	f, err := os.OpenFile(os.Getenv("RECORD"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// told is what came of a load.
type told struct {
	Asked, Published []string      // what succeeded
	Failures         []string      // what did not, and why
	Longest          time.Duration // that one took

	mu sync.Mutex
}

func (r *told) took(begun time.Time, list *[]string, id string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Longest = max(r.Longest, time.Since(begun))
	if err != nil {
		r.Failures = append(r.Failures, fmt.Sprintf("%s after %v: %v", id, time.Since(begun), err))
		return
	}
	*list = append(*list, id)
}

// front asks in the handlers of HTTP, and by itself, as it publishes, between /begin
// and /end.
func front(s *service.Service) error {
	var r told
	var loops sync.WaitGroup
	stop := make(chan struct{})
	loop := func(name string, list *[]string, do func(ctx context.Context, id string) error) {
		loops.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				id, begun := fmt.Sprintf("%s-%d", name, n), time.Now()
				ctx, cancel := context.WithTimeout(s.Context(), await.Patience) // a slow machine loses nothing
				err := do(ctx, id)
				cancel()
				r.took(begun, list, id, err)
			}
		})
	}
	s.HTTP("POST /begin", func(http.ResponseWriter, *http.Request) error {
		for i := range 4 {
			loop(fmt.Sprintf("own%d", i), &r.Asked, func(ctx context.Context, id string) error {
				_, err := service.Ask[task, task](ctx, s, "middle.do", task{id})
				return err
			})
		}
		for i := range 2 {
			loop(fmt.Sprintf("job%d", i), &r.Published, func(ctx context.Context, id string) error {
				return service.Publish(ctx, s, "jobs.x", task{id})
			})
		}
		return nil
	})
	s.HTTP("POST /end", func(w http.ResponseWriter, _ *http.Request) error {
		close(stop)
		loops.Wait()
		return json.NewEncoder(w).Encode(&r)
	})
	s.HTTP("POST /front/{id}", func(_ http.ResponseWriter, r *http.Request) error {
		_, err := service.Ask[task, task](r.Context(), s, "middle.do", task{r.PathValue("id")})
		return err
	})
	return nil
}

// post sends a request that may not be repeated, over a connection that is kept.
func (w *world) post(c *http.Client, path, id string) ([]byte, error) {
	resp, err := c.Post(w.URL+path+id, "application/json", strings.NewReader(`{"id":"`+id+`"}`))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%d %s", resp.StatusCode, b.Bytes())
	}
	return b.Bytes(), err
}

// asking is a load of all that services ask and publish, in handlers, of their own
// accord, and asked through the door.
type asking struct {
	w      *world
	client *http.Client
	stop   atomic.Bool
	loops  sync.WaitGroup
	told   // of what came through the door
}

// newAsking starts the system in an environment with more variables, and the load.
func newAsking(t *testing.T, env ...string) *asking {
	t.Helper()
	a := &asking{
		w:      &world{stage.New(t, one, asksText)},
		client: &http.Client{Timeout: await.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
	}
	t.Cleanup(a.w.end)
	a.w.start(env...)
	if _, err := a.w.post(a.client, "/begin", ""); err != nil {
		t.Fatal(err)
	}
	for i := range 9 {
		path, list := []string{"front", "bus", "jobs"}[i%3], &a.Asked
		if path == "jobs" {
			list = &a.Published
		}
		a.loops.Go(func() {
			for n := 0; !a.stop.Load(); n++ {
				id, begun := fmt.Sprintf("%s%d-%d", path, i, n), time.Now()
				_, err := a.w.post(a.client, "/"+path+"/", id)
				a.took(begun, list, id, err)
			}
		})
	}
	return a
}

// more waits until the load has gone on for a while.
func (a *asking) more() {
	a.w.T.Helper()
	count := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.Asked)
	}
	from := count()
	await.Until(a.w.T, "more is asked", func() bool { return count() >= from+200 })
}

// end stops the load and checks that nothing failed, that what was asked was done once,
// and that what was stored was handled.
func (a *asking) end() {
	t := a.w.T
	t.Helper()
	a.stop.Store(true)
	a.loops.Wait()
	var own told
	b, err := a.w.post(a.client, "/end", "")
	if err == nil {
		err = json.Unmarshal(b, &own)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.client.CloseIdleConnections()
	t.Logf("asked %d times by services and %d times through the door, the longest took %v and %v; published %d and %d", len(own.Asked), len(a.Asked), own.Longest, a.Longest, len(own.Published), len(a.Published))
	failures := append(own.Failures, a.Failures...)
	if len(failures) > 0 {
		t.Errorf("%d failed: %s", len(failures), strings.Join(failures[:min(5, len(failures))], "\n"))
	}
	done := map[string]int{}
	for id := range strings.Lines(a.w.Read("done.txt")) {
		done[strings.TrimSpace(id)]++
	}
	for _, id := range append(own.Asked, a.Asked...) {
		if done[id] != 1 {
			t.Errorf("%s was done %d times", id, done[id])
		}
		delete(done, id)
	}
	if len(done) > 0 && len(failures) == 0 {
		t.Errorf("done, and not asked: %v", done)
	}
	a.w.checkHandled(append(own.Published, a.Published...))
}

// TestServicesAskOn has services ask each other, and publish to a durable subscription,
// through several upgrades.
func TestServicesAskOn(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	for _, binary := range []string{two, one, two, one, two} {
		a.more()
		r, err := a.w.upgrade(binary)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("upgrade: %v, no bus for %v", r.Took, r.NoBus)
		a.w.Ready()
	}
	a.more()
	a.end()
}

// TestServicesAskOnAfterAFailure gives upgrades up, before the bus is closed and after.
func TestServicesAskOnAfterAFailure(t *testing.T) {
	for _, step := range []string{"hold", "suspend", "bus"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			a := newAsking(t, "FAIRLEAD_FAULT="+step+"=error")
			for range 2 {
				a.more()
				if r, err := a.w.upgrade(two); err == nil {
					t.Errorf("it says %+v", r)
				}
			}
			a.more()
			a.end()
		})
	}
}

// checkHandled waits until the durable subscription is at the end of its queue, and
// checks that each message is stored once and was handled. It tells how many were given
// again.
func (w *world) checkHandled(published []string) {
	w.T.Helper()
	var q control.Queue
	await.Until(w.T, "all that was stored is acknowledged", func() bool {
		list, err := stage.Call[control.Empty, []control.Queue](w.System, control.VerbQueues, control.Empty{})
		if err != nil || len(list) != 1 || len(list[0].Consumers) != 1 {
			return false
		}
		q = list[0]
		return q.Consumers[0].Lag == 0 && q.Consumers[0].Unacked == 0
	})
	handled, lines := map[string]bool{}, 0
	for id := range strings.Lines(w.Read("handled.txt")) {
		handled[strings.TrimSpace(id)] = true
		lines++
	}
	for _, id := range published {
		if !handled[id] {
			w.T.Errorf("%s was published, and not handled", id)
		}
	}
	w.T.Logf("%d messages were stored, and handled %d times", q.Messages, lines)
	if int(q.Messages) != len(published) || len(handled) != len(published) || q.Dead != 0 {
		w.T.Errorf("%d messages were published, %d stored, %d handled, %d are dead letters", len(published), q.Messages, len(handled), q.Dead)
	}
}

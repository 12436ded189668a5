package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/system"
	"fairlead/test/await"
)

func TestQueueIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		q.set(&system.Pool{Concurrency: 2, Queue: 5, QueueTime: time.Minute})
		for range 2 {
			if err := q.enter(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var order []int
		for i := range 5 {
			go func() {
				if err := q.enter(t.Context(), nil); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		if err := q.enter(t.Context(), nil); !errors.Is(err, errQueueFull) {
			t.Errorf("a sixth waits: %v", err)
		}
		for range 5 {
			q.leave()
			synctest.Wait()
		}
		for i, got := range order {
			if got != i {
				t.Fatalf("served in the order %v", order)
			}
		}
		if len(order) != 5 || q.open != 2 || q.waiting() != 0 {
			t.Errorf("%d served, %d open, %d wait", len(order), q.open, q.waiting())
		}
	})
}

func TestQueueForgetsWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		q.set(&system.Pool{Concurrency: 1, Queue: 5, QueueTime: 3 * time.Second})
		if err := q.enter(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- q.enter(ctx, nil) }()
		synctest.Wait()
		began := time.Now()
		over := make(chan error, 1)
		go func() { over <- q.enter(t.Context(), nil) }()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left gets %v", err)
		}
		if q.waiting() != 1 {
			t.Errorf("%d wait", q.waiting())
		}
		if err := <-over; !errors.Is(err, errQueueTime) || time.Since(began) != 3*time.Second {
			t.Errorf("who waited too long gets %v after %v", err, time.Since(began))
		}
		q.leave()
		if err := q.enter(t.Context(), nil); err != nil || q.open != 1 {
			t.Errorf("the free place: %v, %d open", err, q.open)
		}
		if q.refused.Load() != 1 {
			t.Errorf("%d refused", q.refused.Load())
		}
	})
}

func TestQueueObeysNewLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		q.set(&system.Pool{Concurrency: 1, Queue: 10, QueueTime: time.Minute})
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if err := q.enter(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		q.set(&system.Pool{Concurrency: 3, Queue: 10, QueueTime: time.Minute})
		synctest.Wait()
		if q.open != 3 || q.waiting() != 3 {
			t.Errorf("%d open, %d wait after the limit grew", q.open, q.waiting())
		}
		q.set(&system.Pool{})
		wg.Wait()
		for range 6 {
			q.leave()
		}
		if q.open != 0 {
			t.Errorf("%d open at the end", q.open)
		}
	})
}

func TestConcurrencyOfAPool(t *testing.T) {
	d := openDoor(t, Options{})
	d.using = map[string]system.Pool{"api": {Concurrency: 2, Queue: 1, QueueTime: 10 * time.Second}}
	arrived, let := make(chan struct{}, 8), make(chan struct{})
	ep := serviceOf(t, "api-1", func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-let })
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "api", Weight: 1}}}}, map[string][]Endpoint{"api": {ep}})
	statuses := make(chan int, 3)
	for range 3 {
		go func() {
			res, err := d.client.Get(d.URL() + "/")
			if err != nil {
				statuses <- 0
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			statuses <- res.StatusCode
		}()
	}
	<-arrived
	<-arrived
	await.Until(t, "one to wait", func() bool { return d.Pools()[0].Queued == 1 })
	res, _ := d.do("GET", "/", nil, nil)
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("beyond the queue: %s %v", res.Status, res.Header)
	}
	if len(arrived) != 0 {
		t.Error("more than two are open on the service")
	}
	close(let)
	for range 3 {
		if s := <-statuses; s != http.StatusOK {
			t.Errorf("status %d", s)
		}
	}
	s := d.Pools()[0]
	if s.Refused != 1 || s.Failed != 1 || s.Requests != 3 || s.Endpoints[0].Requests != 3 || s.Open != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestWebSocketsTakeNoPlace(t *testing.T) {
	d := openDoor(t, Options{})
	d.using = map[string]system.Pool{"ws": {Concurrency: 1}}
	d.apply([]*system.Route{{Path: "/", Targets: []system.Target{{Service: "ws", Weight: 1}}}}, map[string][]Endpoint{"ws": {serviceOf(t, "ws-1", echo(t))}})
	a, b := d.websocket("/"), d.websocket("/")
	ping(t, a, "a")
	ping(t, b, "b")
}

func BenchmarkQueue(b *testing.B) {
	var q queue
	q.set(&system.Pool{Concurrency: 100, Queue: 100, QueueTime: time.Minute})
	b.ReportAllocs()
	for b.Loop() {
		if err := q.enter(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
		q.leave()
	}
}

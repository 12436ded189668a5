package service

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestNobodyIsAskedForQueuesAllTheTime: in a system without queues nobody answers, and
// each instance asked four times a second for ever.
func TestNobodyIsAskedForQueuesAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		var asked []time.Duration
		begin := time.Now()
		insist(ctx, func() error {
			asked = append(asked, time.Since(begin))
			return errors.New("nobody is there")
		})
		if n := len(asked); n > 70 {
			t.Errorf("asked %d times in an hour", n)
		}
		if asked[0] != 0 || asked[2] > time.Second {
			t.Errorf("asked after %v", asked)
		}
	})
}

func TestWhoAsksForQueuesStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queues
		var asks atomic.Int64
		ask := func(ctx context.Context) {
			insist(ctx, func() error { asks.Add(1); return errors.New("nobody is there") })
		}
		first := q.asking(t.Context())
		go ask(first)
		second := q.asking(t.Context()) // the bus was away and is there again
		go ask(second)
		synctest.Wait()
		if first.Err() == nil || second.Err() != nil {
			t.Errorf("who asked first: %v, then: %v", first.Err(), second.Err())
		}
		q.set([]string{"data.x"})
		synctest.Wait()
		was := asks.Load()
		time.Sleep(time.Hour)
		if n := asks.Load() - was; n != 0 || second.Err() == nil {
			t.Errorf("asked %d times after it was told", n)
		}
	})
}

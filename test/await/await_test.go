package await

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a test that notes its end.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(string, ...any) {
	f.failed = true
	panic(f)
}

// run reports whether the test that it gives fails, and after what time.
func run(t *testing.T, test func(testing.TB)) (failed bool, took time.Duration) {
	t.Helper()
	f := &failing{TB: t}
	begun := time.Now()
	defer func() {
		if r := recover(); r != nil && r != any(f) {
			panic(r)
		}
		failed, took = f.failed, time.Since(begun)
	}()
	test(f)
	return false, 0
}

func TestWaitsNoLongerThanItTakes(t *testing.T) {
	tests := []struct {
		name   string
		test   func(tb testing.TB)
		failed bool
		least  time.Duration
		most   time.Duration
	}{
		{"it is so", func(tb testing.TB) { tb.Helper(); Until(tb, "", func() bool { return true }) }, false, 0, 0},
		{"it becomes so", func(tb testing.TB) {
			tb.Helper()
			at := time.Now().Add(20 * time.Second)
			Until(tb, "", func() bool { return !time.Now().Before(at) })
		}, false, 20 * time.Second, 20*time.Second + 10*time.Millisecond},
		{"it never is", func(tb testing.TB) { tb.Helper(); Until(tb, "", func() bool { return false }) }, true, Patience, Patience + 20*time.Millisecond},
		{"a value", func(tb testing.TB) {
			tb.Helper()
			ch := make(chan int)
			time.AfterFunc(20*time.Second, func() { ch <- 7 })
			if v := From(tb, "", ch); v != 7 {
				t.Errorf("got %d", v)
			}
		}, false, 20 * time.Second, 20 * time.Second},
		{"a closed channel", func(tb testing.TB) {
			tb.Helper()
			ch := make(chan int)
			close(ch)
			From(tb, "", ch)
		}, false, 0, 0},
		{"no value", func(tb testing.TB) { tb.Helper(); From(tb, "", make(chan int)) }, true, Patience, Patience},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failed, took := run(t, tt.test)
				if failed != tt.failed || took < tt.least || took > tt.most {
					t.Errorf("failed: %v, after %v", failed, took)
				}
			})
		})
	}
}

func TestContextEndsAfterPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		ctx := Context(t)
		<-ctx.Done()
		if took := time.Since(begun); took != Patience || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("%v after %v", ctx.Err(), took)
		}
	})
}

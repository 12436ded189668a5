// Package await waits in tests for what other goroutines, processes and machines do:
// for as long as a machine may need that is slow and has much else to do, and no
// longer than it takes. It is for conditions that come to pass; it is not for
// measuring time, nor for showing that something does not happen.
package await

import (
	"context"
	"testing"
	"time"
)

// Patience is how long a test waits for anything before it fails. It only guards
// against hanging, so it is far more than a machine under load needs; a test that
// passes does not wait for it.
const Patience = time.Minute

// Until waits until ok returns true, and ends the test when Patience is over. It
// calls ok again and again, at first after 1 ms, later every 10 ms; what says in the
// failure what was waited for.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	if !Condition(ok) {
		tb.Fatalf("it did not come to pass in %v: %s", Patience, what)
	}
}

// Condition is Until where no test is at hand: it reports whether ok returned true
// before Patience was over.
func Condition(ok func() bool) bool {
	begun := time.Now()
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 10*time.Millisecond) {
		if time.Since(begun) > Patience {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// From returns the next value of a channel, the zero value at once when it is
// closed. It ends the test when nothing has come and Patience is over.
func From[T any](tb testing.TB, what string, ch <-chan T) T {
	tb.Helper()
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	select {
	case v := <-ch:
		return v
	case <-limit.C:
		tb.Fatalf("it did not come in %v: %s", Patience, what)
		panic("unreachable")
	}
}

// Context returns a context that ends after Patience, or when the test does.
func Context(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), Patience)
	tb.Cleanup(cancel)
	return ctx
}

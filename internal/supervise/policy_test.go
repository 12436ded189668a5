package supervise

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRestartPolicyDecides(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		history History
		want    Decision
	}{
		"first end": {
			History{Reason: "exited with code 3"},
			Decision{After: 100 * time.Millisecond, State: Backoff, Quick: 1, Reason: "exited with code 3; next try in 100ms"},
		},
		"doubles": {
			History{Quick: 3, Reason: "exited with code 3"},
			Decision{After: 800 * time.Millisecond, State: Backoff, Quick: 4, Reason: "exited with code 3; 4 times in a row, next try in 800ms"},
		},
		"is ready but not for long": {
			History{Quick: 1, Ready: now.Add(-29 * time.Second), Reason: "r"},
			Decision{After: 200 * time.Millisecond, State: Backoff, Quick: 2, Reason: "r; 2 times in a row, next try in 200ms"},
		},
		"was stable": {
			History{Quick: 40, Ready: now.Add(-30 * time.Second), Reason: "killed by SIGSEGV"},
			Decision{After: 100 * time.Millisecond, State: Backoff, Quick: 1, Reason: "killed by SIGSEGV; next try in 100ms"},
		},
		"fails, and goes on": {
			History{Quick: 9, Reason: "r"},
			Decision{After: 30 * time.Second, State: Failed, Quick: 10, Reason: "r; 10 times in a row, next try in 30s"},
		},
		"never overflows": {
			History{Quick: 1 << 40, Reason: "r"},
			Decision{After: 30 * time.Second, State: Failed, Quick: 1<<40 + 1, Reason: "r; 1099511627777 times in a row, next try in 30s"},
		},
		"hopeless at once": {
			History{Hopeless: true, Reason: `command "nosuch" not found in PATH`},
			Decision{After: 30 * time.Second, State: Failed, Quick: 1, Reason: `command "nosuch" not found in PATH; next try in 30s`},
		},
		"jitter only shortens": {
			History{Quick: 4, Jitter: 0.5, Reason: "r"},
			Decision{After: 1440 * time.Millisecond, State: Backoff, Quick: 5, Reason: "r; 5 times in a row, next try in 1.4s"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := (RestartPolicy{}).Decide(test.history, now); got != test.want {
				t.Errorf("decided\n %+v, want\n %+v", got, test.want)
			}
		})
	}
}

// TestRestartPolicyOverADay plays a service that always exits at once, then one
// that is cured.
func TestRestartPolicyOverADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, starts, quick := time.Now(), 0, 0
		var failedAfter time.Duration
		for time.Since(begin) < 24*time.Hour {
			starts++
			d := RestartPolicy{}.Decide(History{Quick: quick, Reason: "r", Jitter: 0.99}, time.Now())
			if d.State == Failed && failedAfter == 0 {
				failedAfter = time.Since(begin)
			}
			if d.After < 80*time.Millisecond || d.After > 30*time.Second {
				t.Fatalf("a pause of %v", d.After)
			}
			quick = d.Quick
			time.Sleep(d.After)
		}
		if starts > 24*3600/24+20 {
			t.Errorf("%d starts in a day", starts)
		}
		if failedAfter < 10*time.Second || failedAfter > 2*time.Minute {
			t.Errorf("failed after %v", failedAfter)
		}
		ready := time.Now()
		time.Sleep(31 * time.Second)
		if d := (RestartPolicy{}).Decide(History{Quick: quick, Ready: ready}, time.Now()); d.State != Backoff || d.Quick != 1 {
			t.Errorf("a cured service is not forgiven: %+v", d)
		}
	})
}

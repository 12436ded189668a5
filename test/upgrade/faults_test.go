package upgrade_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/test/await"
	"fairlead/test/stage"
)

// TestCannotTakeOver gives programs that are of no use; nothing changes.
func TestCannotTakeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	before := w.Ready()
	tests := []struct{ name, binary, says string }{
		{"no file", "/nowhere/fairlead", "no such file"},
		{"no program of ours", foreign, "does not answer as fairlead does"},
		{"an old version", old, "cannot take over from this one"},
		{"a relative path", "fairlead", "must be absolute"},
	}
	for _, tt := range tests {
		_, err := w.upgrade(tt.binary)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if now := w.Ready(); now.PID != before.PID || now.Version != before.Version {
		t.Errorf("status was %+v, is %+v", before, now)
	}
}

// TestWhileAnotherChangeGoesOn is refused at once.
func TestWhileAnotherChangeGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	c := w.socket() // keeps the restart going for its drain time
	restarted := make(chan error, 1)
	go func() {
		_, err := stage.Call[control.ServiceRequest, control.Receipt](w.System, control.VerbRestart, control.ServiceRequest{Service: "echo"})
		restarted <- err
	}()
	await.Until(t, "an instance drains", func() bool {
		st, err := w.Status()
		if err != nil {
			return false
		}
		for _, i := range st.Services[0].Instance {
			if i.State == "draining" {
				return true
			}
		}
		return false
	})
	if _, err := w.upgrade(two); err == nil || !strings.Contains(err.Error(), "another change goes on") {
		t.Errorf("it says %v", err)
	}
	_ = c.Close()
	if err := <-restarted; err != nil {
		t.Error(err)
	}
}

// TestStepsThatFail makes every step fail, in each way: the system goes on, and
// can be upgraded after that.
func TestStepsThatFail(t *testing.T) {
	tests := []struct{ step, how string }{
		{"load", "error"},
		{"load", "kill"},
		{"freeze", "error"},
		{"hold", "error"},
		{"suspend", "error"},
		{"bus", "error"},
		{"bus", "kill"},
		{"state", "error"},
		{"state", "kill"},
		{"door", "error"},
		{"door", "kill"},
	}
	for _, tt := range tests {
		t.Run(tt.step+" "+tt.how, func(t *testing.T) {
			t.Parallel()
			// Some steps are the former process's, some the next one's: only the
			// first has the environment of these.
			w := newWorld(t, nil, "FAIRLEAD_FAULT="+tt.step+"="+tt.how)
			before, pid := w.instances(), w.Ready().PID
			c := w.socket()
			l := w.begin()
			begun := time.Now()
			if r, err := w.upgrade(two); err == nil {
				t.Errorf("it says %+v", r)
			} else if took := time.Since(begun); took > await.Patience {
				t.Errorf("after %v it says %v", took, err)
			}
			if st := w.Ready(); st.PID != pid {
				t.Errorf("process %d runs the system, before it was %d", st.PID, pid)
			}
			if err := echoes(c); err != nil {
				t.Errorf("a WebSocket of before: %v", err)
			}
			await.Until(t, "the bus is asked again", func() bool { return l.once(http.DefaultClient, "GET", "/bus") == "" })
			l.endAfter(tt.how == "kill" && tt.step == "door")
			if now := w.instances(); !maps.Equal(before, now) {
				t.Errorf("instances were %v, are %v", before, now)
			}
		})
	}
}

// endAfter is end, for a load during which the next process ended: in the midst of what
// it was to store, and, when it was killed, with connections that it had taken.
func (l *load) endAfter(lossy bool) {
	l.w.T.Helper()
	l.mu.Lock()
	if lossy {
		l.failures = nil
		l.w.T.Log("what the killed process had accepted is lost")
	} else {
		l.failures = slices.DeleteFunc(l.failures, func(problem string) bool {
			return strings.Contains(problem, "POST /publish: 504") && strings.Contains(problem, "not known whether the message was stored")
		})
	}
	l.mu.Unlock()
	l.end(1)
}

// TestKills kills processes around the moment of the hand-over.
func TestKills(t *testing.T) {
	t.Run("the former process right after", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, nil)
		before := w.instances()
		r, err := w.upgrade(two)
		if err != nil {
			t.Fatal(err)
		}
		_ = w.Up.Process.Kill()
		<-w.Ended
		w.Up = nil
		l := w.begin()
		if st := w.Ready(); st.PID != r.PID {
			t.Errorf("process %d runs the system, not %d", st.PID, r.PID)
		}
		l.end(0)
		if now := w.instances(); !maps.Equal(before, now) {
			t.Errorf("instances were %v, are %v", before, now)
		}
		if _, err := stage.Call[control.Empty, control.DownReply](w.System, control.VerbDown, control.Empty{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the next process after it has taken over", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, nil)
		r, err := w.upgrade(two)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-w.Ended // as after any crash: the keeper ends all, the stand-in tells how
		if code := w.Up.ProcessState.ExitCode(); code != 137 && code != 1 {
			t.Errorf("it ended with %d", code)
		}
		await.Until(t, "nothing is left", func() bool { return len(w.Processes()) == 0 })
		w.start()
	})
	t.Run("the former process while the next one takes over", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, nil, "FAIRLEAD_FAULT=take=kill")
		before := w.instances()
		if _, err := w.upgrade(two); err == nil {
			t.Error("a killed process answered")
		}
		<-w.Ended
		w.Up = nil
		st := w.Ready()
		if st.Version != versionTwo || !maps.Equal(before, w.instances()) {
			t.Errorf("status is %+v", st)
		}
		w.begin().end(0)
		if _, err := stage.Call[control.Empty, control.DownReply](w.System, control.VerbDown, control.Empty{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the former process while the bus is closed", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, nil, "FAIRLEAD_FAULT=suspend=kill")
		if _, err := w.upgrade(two); err == nil {
			t.Error("a killed process answered")
		}
		<-w.Ended // as after any crash
		await.Until(t, "nothing is left", func() bool { return len(w.Processes()) == 0 })
		w.start()
	})
}

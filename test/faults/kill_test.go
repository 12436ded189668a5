package faults_test

import (
	"strings"
	"syscall"
	"testing"

	"fairlead/internal/control"
	"fairlead/test/await"
	"fairlead/test/stage"
)

const forking = `
system: forking
gateway: {listen: "127.0.0.1:0"}
services:
  fork: {command: [SELF, part, fork, DIR], replicas: 2, stop_grace_period: 300ms}
routes:
  /: {service: fork}
`

// family is what a system of two instances comes to: node, the two, and
// a grandchild of each.
const family = 5

// TestKilledAtOnce kills parts of the program while services run that do not end
// when asked to, and have left processes of their own behind: with another
// session, parent and environment.
func TestKilledAtOnce(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(*testing.T, *world, control.Status)
	}{
		{"down", downed},
		{"node", nodeKilled},
		{"node and up at once", func(_ *testing.T, w *world, _ control.Status) { w.Kill() }}, // the keeper is still at work
		{"keeper", keeperKilled},
		{"node and keeper", bothKilled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, forking)
			w.Start()
			st := w.Ready()
			if n := len(w.Processes()); n != family {
				t.Fatalf("%d processes run, want %d: %v", n, family, w.Processes())
			}
			tt.do(t, w, st)

			before := w.Processes()
			if w.Up == nil {
				w.Start()
			} else {
				before = nil // it runs on
			}
			w.Ready()
			now := w.Processes()
			for pid := range before {
				if args, still := now[pid]; still {
					t.Errorf("of the run before: %d %s", pid, args)
				}
			}
			if len(now) != family {
				t.Errorf("%d processes run, want %d: %v", len(now), family, now)
			}
			if a := w.ask("GET", "/", ""); a.status != 200 {
				t.Errorf("the door answers %v", a)
			}
		})
	}
}

func downed(t *testing.T, w *world, st control.Status) {
	t.Helper()
	if code, out := w.Command("down"); code != 0 || !strings.Contains(out, "stopped") {
		t.Errorf("down: %d %s", code, out)
	}
	if code := w.Wait(); code != 0 {
		t.Errorf("up ended with %d:\n%s", code, w.Written())
	}
	contains(t, "what up writes", w.Written(), "killed: it had not ended within its grace period")
	if stage.Alive(st.KeeperPID) {
		t.Error("the keeper is left")
	}
	w.NothingLeft()
}

func nodeKilled(t *testing.T, w *world, st control.Status) {
	t.Helper()
	w.Kill()
	await.Until(t, "the keeper has ended all that ran, and itself", func() bool { return len(w.Processes()) == 0 && !stage.Alive(st.KeeperPID) })
}

func keeperKilled(t *testing.T, w *world, st control.Status) {
	t.Helper()
	before := w.Processes()
	if err := syscall.Kill(st.KeeperPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "nothing of the old instances is left", func() bool {
		now := w.Processes()
		for pid := range before {
			if _, still := now[pid]; still && pid != st.PID {
				return false
			}
		}
		return true
	})
	await.Until(t, "there is another keeper", func() bool {
		now, err := w.Status()
		return err == nil && now.KeeperPID != 0 && now.KeeperPID != st.KeeperPID
	})
	if next := w.Ready(); next.PID != st.PID || next.Address != st.Address {
		t.Errorf("the status was %+v, is %+v", st, next)
	}
	contains(t, "what up writes", w.Written(), "it ended together with the keeper")
}

func bothKilled(t *testing.T, w *world, st control.Status) {
	t.Helper()
	if err := syscall.Kill(st.PID, syscall.SIGSTOP); err != nil { // it must not see the keeper end
		t.Fatal(err)
	}
	if err := syscall.Kill(st.KeeperPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.Kill()
	await.Until(t, "the instances ended with the keeper", func() bool {
		now := w.Processes()
		for _, i := range st.Services[0].Instance {
			if _, still := now[i.PID]; still {
				return false
			}
		}
		return true
	})
	if left := w.Processes(); len(left) != 2 {
		t.Errorf("%v are left, want the two grandchildren, for the next up to find", left)
	}
}

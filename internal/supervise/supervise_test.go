package supervise

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestInstancesRunAndStop(t *testing.T) {
	w := newWorld(t)
	if err := w.Launch(t.Context(), []Spec{spec("idle", 1, "idle"), httpSpec("web", 2, "port"), httpSpec("sock", 1, "socket")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.Await(ctx); err != nil {
		t.Fatal(err)
	}
	for _, i := range w.Instances() {
		t.Logf("%+v", i)
		if i.State != Ready || i.PID == 0 {
			t.Errorf("%s is %s with pid %d, want ready", i.ID, i.State, i.PID)
		}
	}
	if n := len(w.host.serving()); n != 4 {
		t.Errorf("%d instances serve, want 4", n)
	}
	r, err := w.Restart(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	begin := time.Now()
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	t.Log("stop took", time.Since(begin))
	for _, e := range w.seen() {
		t.Log(e.Kind, e.Instance.ID, e.Text, e.Took)
	}
	t.Log(strings.Join(w.host.said(), "\n"))
}

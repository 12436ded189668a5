package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/service"
	"fairlead/test/await"
)

const collecting = `
system: collecting
gateway: {listen: "127.0.0.1:0"}
queues: {data.vhf: {}}
services:
  collector: {command: [SELF, part, collector, DIR/collected], replicas: 2, stop_grace_period: 2s, bus: {subscribes: [data.vhf]}}
routes:
  POST /in: {publish: data.vhf}
`

// collector writes down what it handles, each message in one write, and will never
// handle some.
func collector(s *service.Service) error {
	file, err := os.OpenFile(os.Args[3], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	service.Subscribe(s, "data.vhf", func(_ context.Context, v string) error {
		if strings.HasPrefix(v, "poison") {
			return service.Reject(fmt.Errorf("%s is not to be collected", v))
		}
		_, err := file.WriteString(v + "\n")
		return err
	}, service.SubscribeOptions{Name: "collect", AckWait: time.Second})
	return nil
}

// TestKilledWhileMessagesAreHandledNoneIsLost kills instances and the node in turn
// while messages come: each that was stored is handled, or a dead letter.
func TestKilledWhileMessagesAreHandledNoneIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, collecting)
	w.Start()
	st := w.Ready()
	var sent []string
	fresh := &http.Client{Timeout: await.Patience}
	publish := func(v string) {
		if post(t.Context(), fresh, w.URL+"/in", `"`+v+`"`) != nil {
			sent = append(sent, v)
		}
	}
	for round := range 6 {
		for n := range 25 {
			publish(fmt.Sprintf("m%d-%d", round, n))
		}
		if round%2 == 1 {
			w.Kill()
			w.Start()
			st = w.Ready()
			continue
		}
		if err := syscall.Kill(st.Services[0].Instance[0].PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if len(sent) < 6*20 {
		t.Fatalf("only %d messages were stored", len(sent))
	}
	publish("poison")
	sent = sent[:len(sent)-1]
	w.Ready()
	missing := func() (none []string) {
		got := strings.Fields(w.Read("collected"))
		for _, v := range sent {
			if !slices.Contains(got, v) {
				none = append(none, v)
			}
		}
		return none
	}
	await.Until(t, "all are collected", func() bool { return len(missing()) == 0 })

	queue := func() (q control.Queue) {
		code, out := w.Command("queue", "data.vhf", "--json")
		if code != 0 || json.Unmarshal([]byte(out), &q) != nil {
			t.Fatalf("queue: %d %s", code, out)
		}
		return q
	}
	await.Until(t, "all is acknowledged, and the poison is a dead letter", func() bool {
		q := queue()
		return len(q.Consumers) == 1 && q.Consumers[0].Name == "collector_collect" && q.Consumers[0].Lag == 0 && q.Consumers[0].Unacked == 0 && q.Dead == 1
	})
	_, out := w.Command("queue", "data.vhf", "dead")
	contains(t, "the dead letters", out, "poison is not to be collected")

	// Everything once more, because the operator says so.
	before := len(strings.Fields(w.Read("collected")))
	code, out := w.Command("queue", "data.vhf", "replay", "--consumer", "collector_collect", "--from", "1")
	if code != 0 || !strings.Contains(out, "collector_collect gets") {
		t.Errorf("replay: %d %s", code, out)
	}
	await.Until(t, "all are collected once more", func() bool { return len(strings.Fields(w.Read("collected"))) >= before+len(sent) })
	for _, tt := range []struct{ args, want string }{
		{"forget collector_collect", "is in use"},
		{"forget nobody", "its consumers are collector_collect"},
		{"replay --consumer nobody", "has no consumer nobody"},
		{"replay --consumer collector_collect --from yesterday", "from must be first, new, a time"},
	} {
		if code, out := w.Command(append([]string{"queue", "data.vhf"}, strings.Fields(tt.args)...)...); code == 0 || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %d %s, want %s", tt.args, code, out, tt.want)
		}
	}
}

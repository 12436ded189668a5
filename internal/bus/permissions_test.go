package bus

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fairlead/internal/system"
)

func TestPermissions(t *testing.T) {
	micro := func(service string, subscribe ...string) []string {
		for _, verb := range []string{"PING", "INFO", "STATS"} {
			v := "$SRV." + verb
			subscribe = append(subscribe, v, v+"."+service, v+"."+service+".*")
		}
		slices.Sort(subscribe)
		return subscribe
	}
	shared := func(sys *system.System) {
		s, _ := sys.Service("tradeflow")
		s.Bus.SharedInbox = true
	}
	for _, c := range []struct {
		name               string
		change             func(*system.System)
		service            string
		draining           bool
		publish, subscribe []string
		deny               []string
	}{
		{
			name:    "answers without a group, asked by nobody",
			service: "auth",
			publish: []string{"_FL.gateway.>", "_FL.operator.>", "_INBOX.>"},
			subscribe: micro("auth", "_FL.auth.auth-1.>",
				"auth.>"),
		},
		{
			name:    "answers in a group, asks, publishes and subscribes",
			service: "tradeflow",
			publish: []string{
				"_FL.gateway.>", "_FL.legacy.>", "_FL.operator.>", "_INBOX.>",
				"data.tradeflow", "model.>",
			},
			subscribe: micro("tradeflow", "_FL.tradeflow.tradeflow-1.>",
				"tradeflow.> tradeflow_queue", "data.vhf"),
		},
		{
			name:     "draining keeps the inbox and everything it publishes",
			service:  "tradeflow",
			draining: true,
			publish: []string{
				"_FL.gateway.>", "_FL.legacy.>", "_FL.operator.>", "_INBOX.>",
				"data.tradeflow", "model.>",
			},
			subscribe: []string{"_FL.tradeflow.tradeflow-1.>"},
		},
		{
			name:      "asked by one service with an inbox of its own",
			service:   "model",
			publish:   []string{"_FL.gateway.>", "_FL.operator.>", "_FL.tradeflow.>", "_INBOX.>"},
			subscribe: micro("model", "_FL.model.model-1.>", "model.> model_queue"),
		},
		{
			name:    "object patterns and a shared inbox",
			service: "legacy",
			publish: []string{"_FL.gateway.>", "_FL.operator.>", "_INBOX.>", "tradeflow.find"},
			subscribe: micro("legacy", "_FL.legacy.legacy-1.>", "_INBOX.>",
				`{"area":"tradeflow","cmd":"findAll"} legacy_queue`, "time.* legacy_queue"),
			deny: []string{"time.*.>"},
		},
		{
			name:      "a shared inbox lives on while draining",
			change:    shared,
			service:   "tradeflow",
			draining:  true,
			publish:   []string{"_FL.gateway.>", "_FL.legacy.>", "_FL.operator.>", "_INBOX.>", "data.tradeflow", "model.>"},
			subscribe: []string{"_FL.tradeflow.tradeflow-1.>", "_INBOX.>"},
		},
		{
			name: "publishes only: no replies to the gateway",
			change: func(sys *system.System) {
				s, _ := sys.Service("auth")
				s.Bus = &system.ServiceBus{Publishes: []string{"audit.log", "audit.log"}}
			},
			service:   "auth",
			publish:   []string{"_FL.operator.>", "_INBOX.>", "audit.log"},
			subscribe: micro("auth", "_FL.auth.auth-1.>"),
		},
		{
			name: "wildcards on both sides overlap",
			change: func(sys *system.System) {
				s, _ := sys.Service("auth")
				s.Bus.Asks = []string{"model.*.tree"}
				m, _ := sys.Service("model")
				m.Bus.Answers = []string{"model.hs.*"}
			},
			service:   "model",
			publish:   []string{"_FL.auth.>", "_FL.gateway.>", "_FL.operator.>", "_FL.tradeflow.>", "_INBOX.>"},
			subscribe: micro("model", "_FL.model.model-1.>", "model.hs.* model_queue"),
			deny:      []string{"model.hs.*.>"},
		},
		{
			name: "nothing is denied that is granted",
			change: func(sys *system.System) {
				s, _ := sys.Service("auth")
				s.Bus.Answers = []string{"auth.*", "auth.key.*"}
				s.Bus.Subscribes = []string{"data.*"}
			},
			service:   "auth",
			publish:   []string{"_FL.gateway.>", "_FL.operator.>", "_INBOX.>"},
			subscribe: micro("auth", "_FL.auth.auth-1.>", "auth.*", "auth.key.*", "data.*"),
			deny:      []string{"auth.key.*.>", "data.*.>"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			sys := shop()
			if c.change != nil {
				c.change(sys)
			}
			p, err := Permissions(sys, c.service, c.service+"-1", c.draining)
			if err != nil {
				t.Fatal(err)
			}
			c.publish = append([]string{"$FLQ.queues." + c.service + "-1", "$FLQ.reject." + c.service + "-1", "$FLQ.subscribe." + c.service + "-1"}, c.publish...)
			c.subscribe = append(c.subscribe, "$FLQ.queues", "$FLQ.hold."+c.service+"-1")
			slices.Sort(c.subscribe)
			if d := cmp.Diff(c.publish, p.Publish.Allow); d != "" {
				t.Errorf("publish (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.subscribe, p.Subscribe.Allow); d != "" {
				t.Errorf("subscribe (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.deny, p.Subscribe.Deny); d != "" {
				t.Errorf("subscribe, denied (-want +got):\n%s", d)
			}
			if p.Response != nil || p.Publish.Deny != nil {
				t.Errorf("more than asked for: %+v", p)
			}
		})
	}
}

func TestPermissionsRefused(t *testing.T) {
	bus := func(b system.ServiceBus) *system.System {
		return &system.System{Services: []system.Service{{Name: "a", Bus: &b}}}
	}
	for _, c := range []struct {
		name              string
		sys               *system.System
		service, instance string
		want              string
		is                error
	}{
		{name: "unknown service", sys: shop(), service: "nobody", instance: "n-1", want: `unknown service "nobody"`, is: ErrUnknownService},
		{name: "no bus section", sys: shop(), service: "page", instance: "page-1", want: "no bus section", is: ErrNoBus},
		{name: "instance of two tokens", sys: shop(), service: "auth", instance: "auth.1", want: `instance "auth.1"`},
		{name: "instance that is a wildcard", sys: shop(), service: "auth", instance: ">", want: `instance ">"`},
		{name: "empty instance", sys: shop(), service: "auth", want: "instance is empty"},
		{name: "answers everything", sys: bus(system.ServiceBus{Answers: []string{">"}}), service: "a", instance: "i", want: "begins with a wildcard"},
		{name: "answers inboxes", sys: bus(system.ServiceBus{Answers: []string{"_FL.gateway.>"}}), service: "a", instance: "i", want: "begins with _"},
		{name: "subscribes the server's", sys: bus(system.ServiceBus{Subscribes: []string{"$SYS.>"}}), service: "a", instance: "i", want: "begins with $"},
		{name: "publishes to JetStream's API", sys: bus(system.ServiceBus{Publishes: []string{"$JS.API.>"}}), service: "a", instance: "i", want: "begins with $"},
		{name: "group smuggled in", sys: bus(system.ServiceBus{Answers: []string{"a.b >"}}), service: "a", instance: "i", want: "white space"},
		{name: "group that is a wildcard", sys: bus(system.ServiceBus{Group: "*", Answers: []string{"a"}}), service: "a", instance: "i", want: `group "*"`},
		{name: "group with an empty token", sys: bus(system.ServiceBus{Group: "a..b", Answers: []string{"a"}}), service: "a", instance: "i", want: "empty token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Permissions(c.sys, c.service, c.instance, false)
			if err == nil {
				t.Fatalf("allowed: %+v", p)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
		})
	}
}

func BenchmarkPermissions(b *testing.B) {
	sys := shop()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Permissions(sys, "tradeflow", "tradeflow-1", false); err != nil {
			b.Fatal(err)
		}
	}
}

package gatekeeper

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestInbox(t *testing.T) {
	tests := []struct {
		reply, own string
		want       bool
	}{
		{"_FL.page.page-1.x", "_FL.page.", true},
		{"_FL.user.lab.x.y", "_FL.user.lab.", true},
		{"_FL.user.labor.x", "_FL.user.lab.", false},
		{"_FL.shop.shop-1.x", "_FL.page.", false},
		{"_FL.gateway.r.x", "_FL.page.", false},
		{"_FL.operator.r.x", "_FL.page.", true},
		{"_INBOX.x.y", "_FL.page.", true},
		{"_INBOXES.x", "", false},
		{"_INBOX", "", false},
		{"_FL.shop.shop-1.x", "", true},
		{"_FLX.y", "", false},
		{"$JS.API.STREAM.PURGE.x", "", false},
		{"$JS.ACK.s.c.1.1.1.1.1", "", false},
		{"$FLQ.ok.data.vhf", "_FL.page.", false},
		{"data.vhf", "_FL.page.", false},
		{"", "", false},
	}
	for _, tt := range tests {
		if got := Inbox(tt.reply, tt.own); got != tt.want {
			t.Errorf("Inbox(%q, %q) = %v", tt.reply, tt.own, got)
		}
	}
}

func TestQuietTakesOffWhatHasAMessageTraced(t *testing.T) {
	h := nats.Header{"Nats-Trace-Dest": {"x"}, "nats-trace-dest": {"y"}, "Nats-Trace-Dest ": {"z"}, "Nats-Msg-Id": {"1"}}
	Quiet(h)
	if len(h) != 1 || h.Get("Nats-Msg-Id") != "1" {
		t.Errorf("left: %v", h)
	}
	Quiet(nil)
}

// All entrances are mapped, and what is passed on leads where the entrance would have.
func TestMappingsLeadWhereClientsMeant(t *testing.T) {
	to := map[string]string{}
	for _, m := range Mappings(nil) {
		to[m.From] = m.To
	}
	subjects := map[string]string{
		"$JS.API.CONSUMER.MSG.NEXT.*.*": "$JS.API.CONSUMER.MSG.NEXT.{{wildcard(1)}}.{{wildcard(2)}}",
		"$JS.API.CONSUMER.INFO.*.*":     "$JS.API.CONSUMER.INFO.{{wildcard(1)}}.{{wildcard(2)}}",
		"$JS.ACK.>":                     "$JS.ACK.>",
	}
	for _, e := range Entrances() {
		if to[e.From] == "" || !strings.HasPrefix(to[e.From], heard) || to[onward+strings.TrimPrefix(e.To, heard)] != subjects[e.From] {
			t.Errorf("%s is mapped to %s, and that to %s", e.From, to[e.From], to[onward+strings.TrimPrefix(e.To, heard)])
		}
	}
	elsewhere := Mappings(func(s string) string { return strings.Replace(s, "$JS.API.", "$JS.hub.API.", 1) })
	if to := elsewhere[3].To; to != "$JS.hub.API.CONSUMER.MSG.NEXT.{{wildcard(1)}}.{{wildcard(2)}}" {
		t.Errorf("a pull elsewhere goes to %s", to)
	}
}

func TestNames(t *testing.T) {
	for rest, want := range map[string][2]string{
		"next.s.c": {"s", "c"}, "ack.s.c.1.2.3.4.5": {"s", "c"}, "ack.s": {"s", ""}, "ack": {"", ""}, "": {"", ""},
	} {
		if s, c := names(rest); s != want[0] || c != want[1] {
			t.Errorf("names(%q) = %q, %q", rest, s, c)
		}
	}
}

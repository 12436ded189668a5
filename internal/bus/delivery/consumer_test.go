package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/system/notation"
	"fairlead/internal/wire"
)

func TestWhereASubscriptionBegins(t *testing.T) {
	tests := []struct {
		from     string
		policy   jetstream.DeliverPolicy
		sequence uint64
		bad      bool
	}{
		{"", jetstream.DeliverAllPolicy, 0, false},
		{"first", jetstream.DeliverAllPolicy, 0, false},
		{"new", jetstream.DeliverNewPolicy, 0, false},
		{"17", jetstream.DeliverByStartSequencePolicy, 17, false},
		{"0", jetstream.DeliverByStartSequencePolicy, 1, false},
		{"2026-01-31T12:00:00Z", jetstream.DeliverByStartTimePolicy, 0, false},
		{"2026-01-31T12:00:00.123456789+02:00", jetstream.DeliverByStartTimePolicy, 0, false},
		{from: "2026-01-31", bad: true},
		{from: "-1", bad: true},
		{from: "last", bad: true},
	}
	for _, tt := range tests {
		got, err := parseStart(tt.from)
		if (err != nil) != tt.bad || got.policy != tt.policy || got.sequence != tt.sequence || (got.time != nil) != (got.policy == jetstream.DeliverByStartTimePolicy) {
			t.Errorf("parseStart(%q) = %+v, %v", tt.from, got, err)
		}
	}
}

func TestNoTwoOwnersHaveOneConsumer(t *testing.T) {
	names := map[string]string{}
	for what, w := range map[string]wish{
		"durable":                         {owner: "page", user: "page-1", SubscribeRequest: wire.SubscribeRequest{Name: "r1"}},
		"durable of another":              {owner: "page-1", user: "page-1-1", SubscribeRequest: wire.SubscribeRequest{Name: "r1"}},
		"reader":                          {owner: "page", user: "page-1", SubscribeRequest: wire.SubscribeRequest{Reader: "r1"}},
		"reader of another instance":      {owner: "page", user: "page-2", SubscribeRequest: wire.SubscribeRequest{Reader: "r1"}},
		"a name that looks like a reader": {owner: "page", user: "page-1", SubscribeRequest: wire.SubscribeRequest{Name: "1__r1"}},
	} {
		if other, taken := names[w.name()]; taken {
			t.Errorf("%s and %s are both called %s", what, other, w.name())
		}
		names[w.name()] = what
	}
}

// FuzzRead: whatever is asked, nobody gets what is not granted, and a name is one
// token of a subject.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"subject": "data.*", "name": "show", "from": "new", "ack_wait": "1s", "in_flight": 3, "attempts": 2}`), "data.*")
	f.Add([]byte(`{"subject": "data.>", "reader": "r1", "from": "17"}`), "data.*")
	f.Add([]byte(`{"subject": "a b", "name": "x.>"}`), ">")
	f.Fuzz(func(t *testing.T, body []byte, granted string) {
		var req wire.SubscribeRequest
		if json.Unmarshal(body, &req) != nil {
			return
		}
		w, err := read(req, "page-1", Party{Owner: "page", Subscribes: []string{granted}})
		if err != nil {
			return
		}
		if notation.SubjectsShared(granted, w.Subject) != w.Subject {
			t.Errorf("%q was granted, %q is allowed", granted, w.Subject)
		}
		for _, c := range w.name() {
			if !plain(c) {
				t.Errorf("the consumer is called %q", w.name())
			}
		}
		if c := w.config("data.vhf", w.Subject); c.Durable != "" && (c.AckWait < minAckWait || c.MaxAckPending < 1) || c.DeliverSubject != "" {
			t.Errorf("the consumer is %+v", c)
		}
	})
}

// unreliable is a server that fails to make the first consumers.
type unreliable struct {
	jetstream.JetStream
	fails []error
	made  []string
}

func (u *unreliable) CreateConsumer(_ context.Context, _ string, c jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	if len(u.fails) > 0 {
		err := u.fails[0]
		u.fails = u.fails[1:]
		return nil, err
	}
	u.made = append(u.made, c.Name)
	return made{}, nil
}

type made struct{ jetstream.Consumer }

func (made) CachedInfo() *jetstream.ConsumerInfo { return nil }

// TestAConsumerIsNotLostWhenTheServerStillWritesTheFormerOne: nats-server's removal
// does not wait for what writes the consumer's state, which then takes the file away
// that the new one is about to rename.
func TestAConsumerIsNotLostWhenTheServerStillWritesTheFormerOne(t *testing.T) {
	renaming := &jetstream.APIError{Code: 500, ErrorCode: 10012, Description: "rename o.dat.tmp o.dat: no such file or directory"}
	refused := &jetstream.APIError{Code: 400, ErrorCode: 10093, Description: "filter subject is not a valid subset of the interest subjects"}
	for _, tt := range []struct {
		name  string
		fails []error
		err   error
	}{
		{"at once", nil, nil},
		{"at the third attempt", []error{renaming, renaming}, nil},
		{"never", []error{renaming, renaming, renaming, renaming, renaming, renaming, renaming, renaming, renaming, renaming}, renaming},
		{"refused", []error{refused}, refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				js := &unreliable{fails: tt.fails}
				err := recreate(t.Context(), js, "data_vhf", jetstream.ConsumerConfig{Name: "page_show"})
				if !errors.Is(err, tt.err) || len(js.fails) != 0 || (err == nil) != (len(js.made) == 1) {
					t.Errorf("%v, made %v, %d failures not met", err, js.made, len(js.fails))
				}
			})
		})
	}
}

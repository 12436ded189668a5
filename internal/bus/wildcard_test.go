package bus

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// coded is the code of the error in the place of an acknowledgement, 0 for none.
func coded(t *testing.T, answer []byte) int {
	t.Helper()
	var ack struct {
		Error struct{ Code int }
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	return ack.Error.Code
}

// TestAMessageOnAPatternIsRefused: the server stores it as it is, and nobody would ever be
// given it.
func TestAMessageOnAPatternIsRefused(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.*"}, system.Queue{Name: "deep.>", Type: "Level"}))
	lab := User{BusUser: system.BusUser{Name: "lab", Publishes: []string{"data.*", "deep.>"}}, Password: "x"}
	setUsers(t, b, lab)
	nc := dial(t, as(b, lab), nats.CustomInboxPrefix(UserInbox("lab")))
	for _, subject := range []string{"data.*", "deep.>", "deep.*", "deep.a.>.b"} {
		answer, err := nc.Request(subject, []byte(`{"level":1}`), await.Patience)
		if err != nil {
			t.Errorf("%s: %v", subject, err)
			continue
		}
		if code := coded(t, answer.Data); code != 400 {
			t.Errorf("%s: %s", subject, answer.Data)
		}
	}
	for _, q := range []string{"data.*", "deep.>"} {
		if n := state(t, b, q).Messages; n != 0 {
			t.Errorf("%s: %d messages are stored", catalogue.Stream(q), n)
		}
	}
	if answer, err := nc.Request("data.x*", []byte("1"), await.Patience); err != nil || coded(t, answer.Data) != 0 {
		t.Errorf("a star within a word is none: %v", err)
	}
}

package bus

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
	"fairlead/internal/wire"
	"fairlead/test/await"
)

// TestRequestsOfOneUserHoldUpNobodyElse: each user waits for the own ones only, and what
// is too much is refused at once.
func TestRequestsOfOneUserHoldUpNobodyElse(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	lab := User{BusUser: system.BusUser{Name: "lab", Subscribes: []string{"data.*"}}, Password: "x"}
	setUsers(t, b, lab)
	nc := dial(t, as(b, lab), nats.CustomInboxPrefix(UserInbox("lab")))
	page := dial(t, issue(t, b, "page", "page-1"))
	flood, err := json.Marshal(wire.SubscribeRequest{Subject: "data.vhf", Reader: "r"})
	if err != nil {
		t.Fatal(err)
	}
	inbox := nc.NewInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const many = 3000
	for range many {
		if err := nc.PublishRequest(wire.SubjectSubscribe+"lab", inbox, flood); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	body, err := json.Marshal(wire.SubscribeRequest{Subject: "data.vhf", Name: "show"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := page.RequestWithContext(await.Context(t), wire.SubjectSubscribe+"page-1", body)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the service waited %v", time.Since(began))
	var reply wire.SubscribeReply
	if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Code != 0 {
		t.Errorf("%s: %v", m.Data, err)
	}
	codes := map[int]int{}
	for range many { // all are answered, whatever has come of them
		m, err := answers.NextMsgWithContext(await.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		var reply wire.SubscribeReply
		if err := json.Unmarshal(m.Data, &reply); err != nil {
			t.Fatal(err)
		}
		codes[reply.Code]++
	}
	if codes[429] == 0 || codes[0] == 0 || codes[0]+codes[429] != many {
		t.Errorf("answers: %v", codes)
	}
}

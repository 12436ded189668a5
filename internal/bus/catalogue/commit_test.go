package catalogue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/system"
)

func TestSmallGroupsAreStoredMessageByMessage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		memory bool
		group  int
		key    bool
		want   bool
	}{
		{"few, staged in memory", true, groupLeastMemory - 1, false, true},
		{"enough, staged in memory", true, groupLeastMemory, false, false},
		{"few, staged on the disk", false, groupLeastDisk - 1, false, true},
		{"enough, staged on the disk", false, groupLeastDisk, false, false},
		{"one with a key needs a batch", false, 1, true, false},
	} {
		group := make([]*entry, tt.group)
		for i := range group {
			group[i] = &entry{}
		}
		if tt.key {
			group[0].marker = Keys + "key.subject"
		}
		c := &Committer{inMemory: func() bool { return tt.memory }}
		if got := c.small(group); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}

func TestWaitingForAReceiptEnds(t *testing.T) {
	checker := &Checker{counts: map[string]*Counts{}, most: 1 << 10}
	checker.Set([]system.Queue{{Name: "data.vhf"}}, nil)
	c := NewCommitter(checker, &nats.Conn{}, func() bool { return true })
	defer c.Close()
	c.paused.Store(true) // nothing is sent
	gone, leave := context.WithCancel(t.Context())
	leave()
	for _, tt := range []struct {
		name     string
		ctx      context.Context //nolint:containedctx // of the call
		deadline time.Time
		want     error
	}{
		{"at the deadline", t.Context(), time.Now().Add(time.Millisecond), context.DeadlineExceeded},
		{"when it has passed", t.Context(), time.Now().Add(-time.Hour), context.DeadlineExceeded},
		{"with the context", gone, time.Now().Add(time.Hour), context.Canceled},
		{"with the context, without a deadline", gone, time.Time{}, context.Canceled},
	} {
		_, err := c.Commit(tt.ctx, Publication{Subject: "data.vhf", Deadline: tt.deadline})
		if !errors.Is(err, tt.want) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A message that was in a batch and is sent again by itself is in none.
func TestHeadersOfABatchDoNotStay(t *testing.T) {
	c := &Committer{nc: &nats.Conn{}}
	e := &entry{msg: &nats.Msg{Subject: "s", Header: nats.Header{"X": {"y"}}}, marker: "m"}
	// A group of one message with a key is a batch; its marker cannot be sent here.
	if _, err := c.sendAll([]*entry{e}); err == nil {
		t.Fatal("a connection that is none has sent something")
	}
	e.msg.Header[headerBatch], e.msg.Header[headerBatchSeq], e.msg.Header[headerCommit] = []string{"1"}, []string{"2"}, []string{"1"}
	e.marker = ""
	m, err := c.sendAll([]*entry{e})
	if err != nil || len(m.Header) != 1 || m.Header.Get("X") != "y" {
		t.Errorf("sent alone with %v, %v", m.Header, err)
	}
}

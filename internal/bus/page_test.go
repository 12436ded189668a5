package bus

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// stalling is a connection to the bus that stops to be read when it asks for messages,
// for a time.
type stalling struct {
	net.Conn

	stall  time.Duration
	closed chan struct{}
	once   sync.Once
	mu     sync.Mutex // guards what follows
	asked  bool
}

func (c *stalling) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("CONSUMER.MSG.NEXT")) {
		c.mu.Lock()
		c.asked = true
		c.mu.Unlock()
	}
	return c.Conn.Write(b)
}

func (c *stalling) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	asked := c.asked
	c.asked = false
	c.mu.Unlock()
	if asked {
		select {
		case <-time.After(c.stall):
		case <-c.closed:
		}
	}
	return n, err
}

func (c *stalling) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

type stallingDialer time.Duration

func (d stallingDialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &stalling{Conn: c, stall: time.Duration(d), closed: make(chan struct{})}, err
}

// TestPageThatComesLateIsNotTheEnd: a batch that stalls says nothing of what the stream
// holds.
func TestPageThatComesLateIsNotTheEnd(t *testing.T) {
	b := open(t, observatory(system.Queue{Name: "data.vhf"}))
	for _, d := range []string{"1", "2", "3", "4", "5"} {
		store(t, b, d)
	}
	for name, tt := range map[string]struct {
		stall, limit time.Duration
		want         int
	}{
		"late":     {1200 * time.Millisecond, await.Patience, 5},
		"too late": {time.Minute, 300 * time.Millisecond, -1},
	} {
		t.Run(name, func(t *testing.T) {
			op := b.OperatorCredentials()
			nc, err := nats.Connect(op.URL, nats.Timeout(await.Patience), nats.UserInfo(op.User, op.Password), nats.SetCustomDialer(stallingDialer(tt.stall)), nats.CustomInboxPrefix(op.InboxPrefix))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
			defer cancel()
			p, err := catalogue.ReadPage(ctx, js, "data_vhf", []string{"data.vhf"}, 0, 256)
			if tt.want < 0 {
				if err == nil {
					t.Errorf("%d messages, through %d, and no error", len(p.Messages), p.Through)
				}
				return
			}
			if err != nil || len(p.Messages) != tt.want || p.Through != 5 {
				t.Errorf("%d messages, through %d: %v", len(p.Messages), p.Through, err)
			}
		})
	}
}

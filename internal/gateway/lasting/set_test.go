package lasting

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"

	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

// TestSetEndsEachInItsWay says which of what is open ends at which request.
func TestSetEndsEachInItsWay(t *testing.T) {
	client := netip.MustParseAddr("192.0.2.1")
	banned := false
	tests := []struct {
		name          string
		end           func(s *Set, here *Place)
		events, other bool // whether these streams are asked to end
	}{
		{"retire", func(s *Set, _ *Place) { s.Retire() }, true, false},
		{"finish", func(s *Set, here *Place) { s.Finish(here) }, true, true},
		{"finish elsewhere", func(s *Set, _ *Place) { s.Finish(&Place{}) }, false, false},
		{"cut", func(s *Set, _ *Place) { s.Cut() }, true, true},
		{"expel nobody", func(s *Set, _ *Place) { s.Expel() }, false, false},
		{"expel", func(s *Set, _ *Place) { banned = true; s.Expel() }, true, true},
	}
	for _, tt := range tests {
		for _, when := range []string{"before", "after"} {
			t.Run(tt.name+", open "+when, func(t *testing.T) {
				banned = false
				s := &Set{Banned: func(a netip.Addr) bool { return banned && a == client }}
				here := &Place{}
				events, other := NewStream(true, func() {}), NewStream(false, func() {})
				if when == "after" {
					tt.end(s, here)
				}
				s.Add(events, Ends{client, here})
				s.Add(other, Ends{client, here})
				if when == "before" {
					tt.end(s, here)
				}
				if _, ending := events.Ending(); ending != tt.events {
					t.Errorf("the events end: %v", ending)
				}
				if _, ending := other.Ending(); ending != tt.other {
					t.Errorf("the other ends: %v", ending)
				}
				s.Remove(events)
				s.Remove(other)
				if err := s.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestSetWaits(t *testing.T) {
	s := &Set{}
	one := NewStream(true, func() {})
	s.Add(one, Ends{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); err == nil {
		t.Error("does not wait for what is open")
	}
	done := make(chan error, 1)
	go func() { done <- s.Wait(t.Context()) }()
	s.Remove(one)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTunnelThatIsCutBeforeItHasAClient closes the client too.
func TestTunnelThatIsCutBeforeItHasAClient(t *testing.T) {
	service, far := net.Pipe()
	defer far.Close()
	s := &Set{}
	tunnel := NewTunnel(service, "other")
	s.Add(tunnel, Ends{})
	if s.Tunnels() != 1 {
		t.Error("it does not count")
	}
	s.Cut()
	client, user := net.Pipe()
	defer user.Close()
	if n := tunnel.Run(client, []byte("early"), nil); n != 0 {
		t.Errorf("%d bytes were carried", n)
	}
	if _, err := io.ReadAll(user); err != nil {
		t.Error(err)
	}
	s.Remove(tunnel)
	if s.Tunnels() != 0 {
		t.Error("it still counts")
	}
}

package listen

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

func TestStreamsOfOneClientAreCountedApartFromConnections(t *testing.T) {
	r := newRoom(slog.New(slog.DiscardHandler))
	r.limit(2, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")})
	now := time.Now()
	var keys []netip.Addr
	for _, tt := range []struct {
		from string
		want bool
	}{
		{"192.0.2.7", true},
		{"::ffff:192.0.2.7", true},
		{"192.0.2.7", false},
		{"2001:db8:1:2::1", true},
		{"2001:db8:1:2::2", true},
		{"2001:db8:1:2::3", false},
		{"198.51.100.1", true},
		{"198.51.100.1", true},
		{"198.51.100.1", true},
	} {
		key, ok := r.begin(netip.MustParseAddr(tt.from), now)
		if ok != tt.want {
			t.Errorf("%s: taken %v", tt.from, ok)
		}
		if ok {
			keys = append(keys, key)
		}
	}
	if _, ok := r.begin(netip.Addr{}, now); !ok {
		t.Error("refused without an address")
	}
	if key, ok := r.admit(netip.MustParseAddr("192.0.2.7"), now); !ok || !key.IsValid() {
		t.Error("a connection was not taken")
	}
	for _, key := range keys {
		r.end(key)
	}
	if len(r.streams) != 0 || len(r.clients) != 1 || r.refusedBy()["stream"] != 2 {
		t.Errorf("left %v, %v, refused %v", r.streams, r.clients, r.refusedBy())
	}
}

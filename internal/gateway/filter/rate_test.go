package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/system"
)

func four(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func TestRateFillsAndDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(nil, 1)
		rs := l.Rates("/", "", []system.Rate{{Requests: 10, Per: time.Second, Burst: 5, By: system.ByClient}})
		k := l.Client(addr(t, "192.0.2.1"))
		for i := range 5 {
			v := rs.TakeClient(k, time.Now())
			if v.Refused() || v.Remaining() != int64(4-i) {
				t.Fatalf("request %d: %+v", i, v)
			}
		}
		v := rs.TakeClient(k, time.Now())
		if !v.Refused() || v.RetryAfter() != 1 || v.By() != system.ByClient {
			t.Fatalf("beyond the burst: %+v", v)
		}
		if got := string(v.Append(nil)); got != `"client-10-1s";r=0;t=1` {
			t.Errorf("RateLimit: %s", got)
		}
		if got := rs.Policy(); got != `"client-10-1s";q=10;w=1` {
			t.Errorf("RateLimit-Policy: %s", got)
		}
		if rs.TakeClient(l.Client(addr(t, "192.0.2.2")), time.Now()).Refused() {
			t.Error("another client is refused")
		}
		time.Sleep(100 * time.Millisecond) // virtual
		if rs.TakeClient(k, time.Now()).Refused() || !rs.TakeClient(k, time.Now()).Refused() {
			t.Error("after a tenth of a second exactly one request may pass")
		}
		// Over ten seconds exactly as many pass as the rate says.
		time.Sleep(time.Second)
		passed := 0
		for range 10_000 {
			if !rs.TakeClient(k, time.Now()).Refused() {
				passed++
			}
			time.Sleep(time.Millisecond)
		}
		if passed < 100 || passed > 105 {
			t.Errorf("%d requests passed in 10 s", passed)
		}
	})
}

func TestRateKeys(t *testing.T) {
	l := NewLimiter(nil, 1)
	tests := []struct {
		name, a, b string
		same       bool
	}{
		{"the same", "192.0.2.1", "192.0.2.1", true},
		{"two of IPv4", "192.0.2.1", "192.0.2.2", false},
		{"one /64", "2001:db8::1", "2001:db8::ffff:1", true},
		{"two /64", "2001:db8::1", "2001:db8:0:1::1", false},
	}
	for _, tt := range tests {
		if same := l.Client(addr(t, tt.a)) == l.Client(addr(t, tt.b)); same != tt.same {
			t.Errorf("%s: same is %v", tt.name, same)
		}
	}
	if l.Subject("a") == l.Subject("b") {
		t.Error("two subjects have one key")
	}
	next := NewLimiter(l, 1)
	if next.Subject("a") != l.Subject("a") {
		t.Error("keys change at a reload")
	}
}

func TestAllRatesMustPassOrNothingIsCounted(t *testing.T) {
	l := NewLimiter(nil, 2)
	now := time.Now()
	rs := l.Rates("/a", "/a", []system.Rate{
		{Requests: 100, Per: time.Minute, By: system.ByClient},
		{Requests: 2, Per: time.Minute, By: system.ByRoute},
		{Requests: 2, Per: time.Minute, By: system.ByRoute}, // the same once more counts once
	})
	k := l.Client(addr(t, "192.0.2.1"))
	for range 2 {
		if v := rs.TakeClient(k, now); v.Refused() || v.By() != system.ByRoute {
			t.Fatalf("%+v", v)
		}
	}
	for range 50 {
		if v := rs.TakeClient(k, now); !v.Refused() || v.By() != system.ByRoute {
			t.Fatalf("%+v", v)
		}
	}
	if v := rs.client[0].buckets.debt(uint64(k), int64(now.Sub(rs.base))); v != 2*rs.client[0].interval {
		t.Errorf("refused requests were counted: debt %v", time.Duration(v))
	}
	if v := rs.TakeToken(k, now); v.Refused() || v.Said() || rs.ByToken() {
		t.Error("there is no rate by token")
	}
}

func TestRouteRatesAreTheRoutesOwn(t *testing.T) {
	l := NewLimiter(nil, 2)
	rates := []system.Rate{{Requests: 1, Per: time.Hour, By: system.ByRoute}, {Requests: 3, Per: time.Hour, By: system.ByClient}}
	now, k := time.Now(), l.Client(addr(t, "192.0.2.1"))
	a, b, c := l.Rates("/a", "", rates), l.Rates("/b", "", rates), l.Rates("/c", "", rates)
	if a.TakeClient(k, now).Refused() || b.TakeClient(k, now).Refused() || c.TakeClient(k, now).Refused() {
		t.Error("routes share the bucket of a rate by route")
	}
	d := l.Rates("/d", "", rates)
	if v := d.TakeClient(k, now); !v.Refused() || v.By() != system.ByClient {
		t.Errorf("the door's rate by client counts all routes together: %+v", v)
	}
	e := l.Rates("/e", "/e", rates)
	if e.TakeClient(k, now).Refused() {
		t.Error("a route's own rate shares buckets with the door's")
	}
}

func TestBucketsSurviveReload(t *testing.T) {
	rates := []system.Rate{{Requests: 1, Per: time.Hour, By: system.ByClient}}
	l := NewLimiter(nil, 1)
	k, now := l.Client(addr(t, "192.0.2.1")), time.Now()
	rs := l.Rates("/", "", rates)
	rs.TakeClient(k, now)
	same := NewLimiter(l, 1)
	if rs = same.Rates("/", "", rates); !rs.TakeClient(k, now).Refused() {
		t.Error("a reload forgave")
	}
	changed := NewLimiter(same, 1)
	if rs = changed.Rates("/", "", []system.Rate{{Requests: 2, Per: time.Hour, By: system.ByClient}}); rs.TakeClient(k, now).Refused() {
		t.Error("a changed rate begins anew")
	}
	gone := NewLimiter(NewLimiter(changed, 0), 1)
	if rs = gone.Rates("/", "", rates); rs.TakeClient(k, now).Refused() {
		t.Error("a rate that was away begins anew")
	}
}

func TestManyClientsNeitherTakeMemoryNorFreeAnOffender(t *testing.T) {
	l := NewLimiter(nil, 1)
	rs := l.Rates("/", "", []system.Rate{{Requests: 10, Per: time.Minute, By: system.ByClient}})
	now := time.Now()
	offender := l.Client(addr(t, "192.0.2.1"))
	for !rs.TakeClient(offender, now).Refused() { //nolint:revive // uses the rate up
	}
	for i := range uint32(20 * MaxKeys) {
		if rs.TakeClient(l.Client(four(i+1<<28)), now).Refused() {
			t.Fatalf("client %d is refused", i)
		}
	}
	if !rs.TakeClient(offender, now).Refused() {
		t.Error("the offender's bucket was forgotten")
	}
	slots := 0
	for i := range rs.client[0].buckets.shard {
		slots += len(rs.client[0].buckets.shard[i].slots)
	}
	if slots > MaxKeys {
		t.Errorf("%d buckets are kept", slots)
	}
}

func TestFullBucketsMakeRoom(t *testing.T) {
	l := NewLimiter(nil, 1)
	rs := l.Rates("/", "", []system.Rate{{Requests: 10, Per: time.Second, By: system.ByClient}})
	now := time.Now()
	for i := range uint32(100_000) { // a new client every millisecond
		rs.TakeClient(l.Client(four(i)), now)
		now = now.Add(time.Millisecond)
	}
	slots := 0
	for i := range rs.client[0].buckets.shard {
		slots += len(rs.client[0].buckets.shard[i].slots)
	}
	if slots > 32*128 {
		t.Errorf("%d places for 100 buckets in debt", slots)
	}
}

func TestOddRates(t *testing.T) {
	l := NewLimiter(nil, 1)
	now := time.Now()
	k := l.Client(addr(t, "::1"))
	for _, rate := range []system.Rate{
		{},
		{Requests: 1_000_000, Per: time.Nanosecond},
		{Requests: 1, Per: 1<<63 - 1, Burst: 1_000_000},
		{Requests: 1_000_000, Per: 365 * 24 * time.Hour, Burst: 1 << 40, By: system.ByRoute},
	} {
		rs := l.Rates("/", "", []system.Rate{rate})
		for range 3 {
			v := rs.TakeClient(k, now)
			if v.Remaining() < 0 || v.RetryAfter() < 1 {
				t.Errorf("%+v: %+v", rate, v)
			}
		}
		if rs := rs.TakeClient(k, now.Add(-time.Hour)); rs.Remaining() < 0 {
			t.Errorf("%+v: time goes back: %+v", rate, rs)
		}
	}
}

func TestLimiterStress(t *testing.T) {
	l := NewLimiter(nil, 1)
	rates := []system.Rate{{Requests: 1000, Per: time.Hour, By: system.ByClient}, {Requests: 3000, Per: time.Hour, By: system.ByRoute}}
	rs := l.Rates("/", "", rates)
	now := time.Now()
	var passed [8]atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 4000 {
				client := (i + w) % 8
				if !rs.TakeClient(l.Client(four(uint32(client))), now).Refused() {
					passed[client].Add(1)
				}
				rs.TakeClient(l.Client(four(uint32(1000+i*8+w))), now.Add(-2*time.Hour))
			}
		})
	}
	wg.Wait()
	sum := int64(0)
	for i := range passed {
		if n := passed[i].Load(); n > 1000 {
			t.Errorf("client %d passed %d times", i, n)
		}
		sum += passed[i].Load()
	}
	if sum > 3000 {
		t.Errorf("%d passed together", sum)
	}
}

func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuesses()
		a, b := addr(t, "192.0.2.1"), addr(t, "192.0.2.2")
		for i := range GuessBurst {
			if w := g.Wait(a, time.Now()); w != 0 {
				t.Fatalf("attempt %d waits %v", i, w)
			}
			g.Failed(a, time.Now())
		}
		if w := g.Wait(a, time.Now()); w != GuessEvery {
			t.Errorf("waits %v, want %v", w, GuessEvery)
		}
		if w := g.Wait(b, time.Now()); w != 0 {
			t.Errorf("another client waits %v", w)
		}
		time.Sleep(GuessEvery)
		if w := g.Wait(a, time.Now()); w != 0 {
			t.Errorf("still waits %v", w)
		}
		g.Failed(a, time.Now())
		if g.Wait(a, time.Now()) == 0 {
			t.Error("may fail twice at once")
		}
	})
}

func BenchmarkTake(b *testing.B) {
	rates := []system.Rate{{Requests: 1_000_000, Per: time.Second, By: system.ByClient}}
	for _, clients := range []uint32{1, 1000, 1 << 20} {
		b.Run(fmt.Sprintf("%d clients", clients), func(b *testing.B) {
			l := NewLimiter(nil, 1)
			rs := l.Rates("/", "", rates)
			now := time.Now()
			b.ReportAllocs()
			n := uint32(0)
			for b.Loop() {
				n++
				rs.TakeClient(l.Client(four(n%clients)), now)
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		l := NewLimiter(nil, 1)
		rs := l.Rates("/", "", rates)
		now := time.Now()
		b.RunParallel(func(pb *testing.PB) {
			for n := uint32(0); pb.Next(); n++ {
				rs.TakeClient(l.Client(four(n%1000)), now)
			}
		})
	})
}

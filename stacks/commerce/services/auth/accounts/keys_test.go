package accounts

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestPlanKeys(t *testing.T) {
	const age = 30 * 24 * time.Hour
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	key := func(kid string, active time.Duration) signingKey {
		return signingKey{kid: kid, active: now.Add(active)}
	}
	tests := []struct {
		name   string
		keys   []signingKey
		add    bool
		active time.Duration // from now
		remove string
	}{
		{"none: one that signs at once", nil, true, 0, ""},
		{"young", []signingKey{key("a", -time.Hour)}, false, 0, ""},
		{"not yet time to publish the next", []signingKey{key("a", -age+time.Hour+time.Second)}, false, 0, ""},
		{"published an hour before it signs", []signingKey{key("a", -age+time.Hour)}, true, time.Hour, ""},
		{"nobody was there: late, but published first", []signingKey{key("a", -2*age)}, true, time.Hour, ""},
		{"the next is published", []signingKey{key("a", -age+time.Minute), key("b", time.Minute)}, false, 0, ""},
		{"the old one's tokens live", []signingKey{key("a", -age), key("b", -20*time.Minute)}, false, 0, ""},
		{"the old one's tokens have expired", []signingKey{key("a", -age), key("b", -21*time.Minute)}, false, 0, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := planKeys(tt.keys, now, age)
			if p.add != tt.add || p.add && !p.active.Equal(now.Add(tt.active)) {
				t.Errorf("add %t at %s, want %t in %s", p.add, p.active, tt.add, tt.active)
			}
			if len(p.remove) > 1 || (len(p.remove) == 1) != (tt.remove != "") || len(p.remove) == 1 && p.remove[0] != tt.remove {
				t.Errorf("remove %v, want %q", p.remove, tt.remove)
			}
		})
	}
}

// TestRotation walks two instances through nine days with keys of three days: every token is verified by
// the keys that were published an hour before it was made, and by those published
// until it expires.
func TestRotation(t *testing.T) {
	c := newClock()
	path := database(t)
	instances := []*Accounts{instance(t, path, c), instance(t, path, c)}
	for _, a := range instances {
		a.keyAge = 3 * 24 * time.Hour
	}
	user := User{Name: "eve", Role: Viewer}
	published := func(a *Accounts) map[string]bool {
		raw, err := a.KeySet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(raw, &set); err != nil {
			t.Fatal(err)
		}
		kids := map[string]bool{}
		for _, k := range set.Keys {
			kids[k.KeyID] = true
		}
		return kids
	}
	type issued struct {
		token string
		until time.Time
	}
	var alive []issued
	used := map[string]bool{}
	const step = 10 * time.Minute
	before := published(instances[0])
	for i := range int(9 * 24 * time.Hour / step) {
		a := instances[i%2]
		token, err := a.sign(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		alive = append(alive, issued{token, c.Now().Add(AccessLifetime)})
		_, header := verified(t, instances[(i+1)%2], token)
		used[header.KeyID] = true
		if !before[header.KeyID] {
			t.Fatalf("step %d: a key signs that was not published before", i)
		}
		before = published(instances[(i+1)%2])
		c.pass(step)
		for len(alive) > 0 && alive[0].until.Before(c.Now()) {
			alive = alive[1:]
		}
		for _, it := range alive {
			verified(t, a, it.token)
		}
	}
	if len(used) != 3 {
		t.Errorf("%d keys signed, want 3", len(used))
	}
	if n := len(published(instances[0])); n > 2 {
		t.Errorf("%d keys are published", n)
	}
}

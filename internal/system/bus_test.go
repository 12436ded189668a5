package system

import (
	"slices"
	"strings"
	"testing"

	"fairlead/internal/system/notation"
)

func TestSecretsOfTheDoorAndTheBus(t *testing.T) {
	const src = `system: a
gateway: {auth: {basic: {users: {ops: OPS}}, keys: {keys: {partner: PARTNER}}}}
bus: {users: {lab: {secret: LAB, publishes: [x]}, ops: {secret: OPS, publishes: [x]}}}
queues: {q: {}}
routes:
  /a: {publish: q, signature: {kind: github, secret: HOOK}}
  /b: {publish: q, signature: {kind: stripe, secret: HOOK}}
secrets: {OPS: {generate: 20}, LAB: {generate: 20}, PARTNER: {generate: 20}, HOOK: {generate: 20}, OTHER: {generate: 20}}
`
	sys, err := Parse(FileName, []byte(src), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sys.DoorSecrets(), []string{"HOOK", "OPS", "PARTNER"}; !slices.Equal(got, want) {
		t.Errorf("DoorSecrets: %v, want %v", got, want)
	}
	if got, want := sys.BusSecrets(), []string{"LAB", "OPS"}; !slices.Equal(got, want) {
		t.Errorf("BusSecrets: %v, want %v", got, want)
	}
	if u, ok := sys.BusUser("lab"); !ok || u.Secret != "LAB" {
		t.Errorf("BusUser: %+v, %v", u, ok)
	}
	if _, ok := sys.BusUser("nobody"); ok {
		t.Error("BusUser finds nobody")
	}
	elsewhere := System{Bus: Bus{Server: &BusServer{URLSecret: "URL", SigningKey: "KEY"}}}
	if got, want := elsewhere.BusSecrets(), []string{"KEY", "URL"}; !slices.Equal(got, want) {
		t.Errorf("BusSecrets: %v, want %v", got, want)
	}
}

func TestParseGrant(t *testing.T) {
	for _, tt := range []struct {
		name, subject string
		asks          bool
		want, fault   string
	}{
		{"a subject", "data.vhf", false, "data.vhf", ""},
		{"a wildcard", "data.>", false, "data.>", ""},
		{"a pattern", `{"cmd": "find", "area": "flows"}`, true, `{"area":"flows","cmd":"find"}`, ""},
		{"discovery is asked", "$SRV.PING", true, "$SRV.PING", ""},
		{"discovery is not heard", "$SRV.PING", false, "", "belongs to fairlead and NATS"},
		{"everything", ">", false, "", "begins with a wildcard"},
		{"inboxes", "_INBOX.>", false, "", "inboxes are granted by themselves"},
		{"nothing", "", false, "", "it is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseGrant(tt.subject, tt.asks)
			if got != tt.want || (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("ParseGrant(%q): %q, %v, want %q, %q", tt.subject, got, err, tt.want, tt.fault)
			}
		})
	}
}

func TestSubjectCovers(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.*", "a.b", true},
		{"a.*", "a.*", true},
		{"a.>", "a.b.c", true},
		{"a.>", "a.>", true},
		{"a.>", "a.*.>", true},
		{"a.b", "a.*", false},
		{"a.*", "a.>", false},
		{"a.>", "a", false},
		{"a.*", "a.b.c", false},
		{"a", "b", false},
	} {
		if got := notation.SubjectCovers(tt.a, tt.b); got != tt.want {
			t.Errorf("subjectCovers(%q, %q) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// FuzzParseGrant: nothing panics, and what is granted is nobody's inbox, has its first
// token written out, and is granted again as it is.
func FuzzParseGrant(f *testing.F) {
	for _, s := range []string{"", "a", "a.*", "a.>", ">", "*.a", "_INBOX.>", "$SRV.PING", "$JS.API.>", `{"cmd":"a"}`, "{", "a..b", "a b"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, asks bool) {
		subject, err := ParseGrant(s, asks)
		if err != nil {
			if subject != "" {
				t.Errorf("ParseGrant(%q) = %q, %v", s, subject, err)
			}
			return
		}
		if strings.IndexByte("_*>", subject[0]) >= 0 || subject[0] == '$' && !asks {
			t.Errorf("ParseGrant(%q) grants %q", s, subject)
		}
		if again, err := ParseGrant(subject, asks); err != nil || again != subject {
			t.Errorf("ParseGrant(%q) = %q, and again %q, %v", s, subject, again, err)
		}
	})
}

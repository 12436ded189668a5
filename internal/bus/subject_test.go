package bus

import (
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestAnswered(t *testing.T) {
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a.b", false},
		{"a.b", "a", false},
		{"a.*", "a.b", true},
		{"a.*", "a", false},
		{"a.*", "a.b.c", false},
		{"a.*.c", "a.b.c", true},
		{"a.>", "a.b", true},
		{"a.>", "a.b.c.d", true},
		{"a.>", "a", false},
		{">", "a.b", true},
		{"*", "a", true},
		{"a*", "ab", false},
		{"a.>", "a.*", true},
		{"a.*", "a.>", false},
		{"a.*", "a.*", true},
		{"a.b", "a.*", false},
		{"a.>", "a.>", true},
		{"a.*.>", "a.>", false},
		{"a.>", "a.*.>", true},
		{`{"area":"tradeflow","cmd":"findAll"}`, `{"area":"tradeflow","cmd":"findAll"}`, true},
		{`{"cmd":"v1.find"}`, `{"cmd":"v1.find"}`, true},
		{`{"cmd":"v1.find"}`, `{"cmd":"v1.other"}`, false},
		{"", "a", false},
		{"a", "", false},
		{">", "", false},
	} {
		if got := Answered(c.pattern, c.subject); got != c.want {
			t.Errorf("Answered(%q, %q) = %v", c.pattern, c.subject, got)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a.*", "a.b", true},
		{"a.*", "*.b", true},
		{"a.*", "*.b.c", false},
		{"a.>", "*.b.c", true},
		{"a.>", "a", false},
		{"a.>", "a.>", true},
		{"a.*.c", "a.b.>", true},
		{"a.*.c", "a.b.c.>", false},
		{"a.*.c.d", "a.>", true},
		{"", "a", false},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("Overlap(%q, %q) = %v", c.a, c.b, got)
		}
		if got := Overlap(c.b, c.a); got != c.want {
			t.Errorf("Overlap(%q, %q) = %v", c.b, c.a, got)
		}
	}
}

func TestCheckSubject(t *testing.T) {
	for _, c := range []struct {
		subject string
		dollar  bool
		problem string // part of the error, "" for none
	}{
		{"a.b", false, ""},
		{"a.*.>", false, ""},
		{`{"area":"tradeflow","cmd":"findAll"}`, false, ""},
		{"zürich.*", false, ""},
		{"$JS.API.>", true, ""},
		{"$JS.API.>", false, "begins with $"},
		{"", false, "is empty"},
		{">", false, "begins with a wildcard"},
		{"*.a", true, "begins with a wildcard"},
		{"_INBOX.>", true, "begins with _"},
		{"_FL.auth.>", true, "begins with _"},
		{"a..b", false, "empty token"},
		{".a", false, "empty token"},
		{"a.", false, "empty token"},
		{"a.>.b", false, "> before its end"},
		{"a b", false, "white space"},
		{"a\u00a0>", false, "white space"},
		{"a\u0085b", false, "white space"},
		{"a\r\nPUB x", false, "white space"},
		{"a\x00b", false, "control character"},
		{"a\xffb", false, "control character"},
	} {
		err := checkSubject(c.subject, c.dollar)
		switch {
		case c.problem == "" && err != nil:
			t.Errorf("%q: %v", c.subject, err)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%q: got %v, want %q", c.subject, err, c.problem)
		}
	}
}

// matches is the rule for one literal subject, written the slow and plain way.
func matches(pattern, literal []string) bool {
	if len(pattern) == 0 || len(literal) == 0 {
		return len(pattern) == len(literal)
	}
	if pattern[0] == ">" && len(pattern) == 1 {
		return true
	}
	return (pattern[0] == "*" || pattern[0] == literal[0]) && matches(pattern[1:], literal[1:])
}

// literals are all subjects of up to four tokens over the tokens of both
// patterns and one that is in neither.
func literals(a, b []string) [][]string {
	given := slices.Concat(a, b)
	words := []string{"~" + strings.Join(given, "")}
	for _, w := range given {
		if w != "*" && w != ">" && !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	level := [][]string{nil}
	var all [][]string
	for range 4 {
		var next [][]string
		for _, l := range level {
			for _, w := range words {
				next = append(next, append(slices.Clone(l), w))
			}
		}
		all = append(all, next...)
		level = next
	}
	return all
}

func FuzzSubjects(f *testing.F) {
	for _, s := range [][2]string{
		{"a.*", "a.b"},
		{"a.>", "*.b.c"},
		{"a.*.c", "a.b.>"},
		{">", "*"},
		{"a.b.c", "a.b.c"},
		{"a.>", "a"},
		{"a.*", "a.>"},
		{"0.0", "*0.*"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got, covers := Overlap(a, b), Answered(a, b) // neither may panic, whatever it gets
		as, bs := strings.Split(a, "."), strings.Split(b, ".")
		if !server.IsValidSubject(a) || !server.IsValidSubject(b) || len(as) > 3 || len(bs) > 3 {
			return
		}
		common, outside := false, false
		for _, l := range literals(as, bs) {
			inA, inB := matches(as, l), matches(bs, l)
			common = common || inA && inB
			outside = outside || inB && !inA
		}
		if got != common {
			t.Errorf("Overlap(%q, %q) = %v", a, b, got)
		}
		if covers == outside {
			t.Errorf("Answered(%q, %q) = %v", a, b, covers)
		}
		// The server takes any token that begins with a wildcard's character for
		// one, which is why it is not asked instead.
		odd := func(token string) bool { return len(token) > 1 && strings.ContainsRune("*>", rune(token[0])) }
		if !slices.ContainsFunc(slices.Concat(as, bs), odd) && got != server.SubjectsCollide(a, b) {
			t.Errorf("Overlap(%q, %q) = %v, the server says otherwise", a, b, got)
		}
	})
}

// FuzzCheckSubject: whatever passes is what the server understands, as one
// permission without a queue group.
func FuzzCheckSubject(f *testing.F) {
	f.Add("a.b.>", true)
	f.Add("a\u00a0>", false)
	f.Add(`{"cmd":"x"}`, false)
	f.Fuzz(func(t *testing.T, subject string, dollar bool) {
		if checkSubject(subject, dollar) != nil {
			return
		}
		if !server.IsValidSubject(subject) || len(strings.Fields(subject)) != 1 {
			t.Errorf("%q passed", subject)
		}
		for _, reserved := range []string{"_INBOX.x", "_FL.a.b.c", "$SYS.REQ.SERVER.PING"} {
			if Answered(subject, reserved) && !(dollar && strings.HasPrefix(subject, "$")) {
				t.Errorf("%q covers %q", subject, reserved)
			}
		}
	})
}

func BenchmarkAnswered(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Answered("tradeflow.*.summary.>", "tradeflow.eu.summary.by.partner")
	}
}

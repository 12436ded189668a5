package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

var jsonSeeds = []string{
	"", " ", "null", "true", "false", "nul", "truex", "0", "-0", "01", "1.5", "1.", ".5", "-", "1e5", "1E+5", "1e-", "1e5.", "+1",
	`""`, `"a`, `"\n"`, `"\u00e9"`, `"\u00g9"`, `"\u00"`, `"\x"`, `"\`, "\"\x01\"", "\"\x7f\"", "\"\xc3\xbc\"", "\"\xff\"", "\xff",
	"[]", "[", "[1]", "[1,]", "[,1]", "[1 2]", " [ 1 , [ 2 ] ] ", "{}", `{"a":1}`, `{"a":1,}`, `{"a" : {"b":[]} }`, `{a:1}`, `{"a"}`, `{"a":}`, "{}{}", "1 2",
	"\ufeff1", "[1]\x00", "\u00a0 1", strings.Repeat("[", 40) + strings.Repeat("]", 40),
}

func TestValidJSON(t *testing.T) {
	for _, s := range jsonSeeds {
		checkValidJSON(t, s)
	}
	for depth, want := range map[int]bool{0: false, 1: false, 2: true, 3: true} {
		if got := ValidJSON([]byte(`[{"a":1}]`), depth); got != want {
			t.Errorf("at most %d deep: %v", depth, got)
		}
	}
}

func checkValidJSON(t *testing.T, s string) {
	t.Helper()
	const deep = 10000 // encoding/json's own bound
	if got, want := ValidJSON([]byte(s), deep), json.Valid([]byte(s)) && utf8.ValidString(s); got != want {
		t.Errorf("%q: %v, encoding/json says %v", s, got, want)
	}
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add(s)
	}
	f.Fuzz(checkValidJSON)
}

func BenchmarkValidJSON(b *testing.B) {
	body := []byte(`{"data":"` + strings.Repeat("x", 1000) + `","list":[1,2.5,true,null]}`)
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			if !ValidJSON(body, 128) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		for b.Loop() {
			if !json.Valid(body) {
				b.Fatal("refused")
			}
		}
	})
}

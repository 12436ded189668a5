package notation

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		in   string
		want time.Duration
		bad  bool
	}{
		{in: "10s", want: 10 * time.Second},
		{in: "1h30m", want: 90 * time.Minute},
		{in: "7d", want: 7 * day},
		{in: "1d12h", want: 36 * time.Hour},
		{in: "0.5d", want: 12 * time.Hour},
		{in: "0", want: 0},
		{in: "", bad: true},
		{in: "10", bad: true},
		{in: "-1s", bad: true},
		{in: "1h-30m", bad: true},
		{in: "1h2d", bad: true},
		{in: "d", bad: true},
		{in: "1e9d", bad: true},
		{in: "999999999999d", bad: true},
		{in: "106751d999999h", bad: true},
		{in: "1 s", bad: true},
		{in: "nand", bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseDuration(tt.in)
			if (err != nil) != tt.bad || got != tt.want && !tt.bad {
				t.Errorf("ParseDuration(%q) = %v, %v; want %v, bad %v", tt.in, got, err, tt.want, tt.bad)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	durations := map[time.Duration]string{
		0: "0s", time.Second: "1s", 10 * time.Minute: "10m", 24 * time.Hour: "24h",
		90 * time.Minute: "1h30m", time.Millisecond: "1ms", time.Minute + time.Second: "1m1s",
	}
	for d, want := range durations {
		if got := FormatDuration(d); got != want {
			t.Errorf("formatDuration(%v) = %s, want %s", d, got, want)
		}
	}
	sizes := map[int64]string{0: "0", 1: "1", 1023: "1023", 1 << 10: "1KiB", 3 << 19: "1536KiB", 64 << 30: "64GiB"}
	for n, want := range sizes {
		if got := FormatSize(n); got != want {
			t.Errorf("formatSize(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	good := map[string]int64{"0": 0, "512": 512, "1KiB": 1 << 10, "10MiB": 10 << 20, "2GiB": 2 << 30}
	for in, want := range good {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "+1", "1.5MiB", "10MB", "10M", "10 MiB", "9223372036854775807GiB", "1KiBMiB", "0x10"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestSplitCommand(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
		bad      bool
	}{
		{name: "words", in: "a  b\tc\n d ", want: []string{"a", "b", "c", "d"}},
		{name: "nothing", in: "  "},
		{name: "single quotes keep all", in: `echo 'a "b" \ $c'`, want: []string{"echo", `a "b" \ $c`}},
		{name: "double quotes", in: `echo "a 'b' \"c\" \\ \$d \n"`, want: []string{"echo", `a 'b' "c" \ $d \n`}},
		{name: "quotes within a word", in: `a'b c'"d e"f`, want: []string{"ab cd ef"}},
		{name: "empty arguments", in: `a '' ""`, want: []string{"a", "", ""}},
		{name: "escapes", in: `a\ b \"c\' \&`, want: []string{"a b", `"c'`, "&"}},
		{name: "line continued", in: "a \\\n b \"c\\\nd\"", want: []string{"a", "b", "cd"}},
		{name: "variables stay", in: `$OUT/api --x=${Y} ~`, want: []string{"$OUT/api", "--x=${Y}", "~"}},
		{name: "hash is text", in: "a #b", want: []string{"a", "#b"}},
		{name: "utf-8", in: "ä 'ö ü'", want: []string{"ä", "ö ü"}},
		{name: "quoted signs of a shell", in: `sh -c "a && b | c"`, want: []string{"sh", "-c", "a && b | c"}},
		{name: "open single quote", in: "a 'b", bad: true},
		{name: "open double quote", in: `a "b\"`, bad: true},
		{name: "last backslash", in: `a \`, bad: true},
		{name: "pipe", in: "a | b", bad: true},
		{name: "and", in: "a && b", bad: true},
		{name: "list", in: "a; b", bad: true},
		{name: "redirection", in: "a > b", bad: true},
		{name: "substitution", in: "a $(b)", bad: true},
		{name: "back quotes", in: "a `b`", bad: true},
		{name: "zero byte", in: "a \x00", bad: true},
		{name: "zero byte in quotes", in: "a '\x00'", bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := SplitCommand(tt.in)
			if (err != nil) != tt.bad || !slices.Equal(got, tt.want) {
				t.Errorf("splitCommand(%q) = %q, %v; want %q, bad %v", tt.in, got, err, tt.want, tt.bad)
			}
		})
	}
}

func TestSubjectsMeet(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.b", "a", false},
		{"a.*", "a.b", true},
		{"a.*", "a.b.c", false},
		{"a.*", "*.b", true},
		{"a.>", "a", false},
		{"a.>", "a.b.c", true},
		{"a.>", "a.*", true},
		{">", "a", true},
		{"a.b.>", "a.*.c.d", true},
		{"a.b.>", "a.c.>", false},
		{`{"cmd":"a.b"}`, `{"cmd":"a.b"}`, true},
	}
	for _, tt := range tests {
		if got, back := SubjectsMeet(tt.a, tt.b), SubjectsMeet(tt.b, tt.a); got != tt.want || back != tt.want {
			t.Errorf("SubjectsMeet(%q, %q) = %v and %v, want %v", tt.a, tt.b, got, back, tt.want)
		}
	}
}

func TestNestPattern(t *testing.T) {
	tests := []struct{ in, want string }{
		{`{"cmd":"findAll","area":"tradeflow"}`, `{"area":"tradeflow","cmd":"findAll"}`}, // as captured from NestJS 10.4
		{` { "b" : { "d":1, "c": true } , "a" : null } `, `{"a":null,"b":{"c":true,"d":1}}`},
		{`{"b":1,"B":2,"a_b":3,"a1":4,"_a":5,"A":6}`, `{"_a":5,"A":6,"a_b":3,"a1":4,"b":1,"B":2}`},
		{`{"cmd":"time.*"}`, `{"cmd":"time.*"}`},
		{`{"a":1.50,"b":1e3}`, `{"a":1.5,"b":1000}`},
		{`{"a":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 41), ""},
		{`{}`, ""},
		{`[]`, ""},
		{`{"a":[1]}`, ""},
		{`{"a":"b c"}`, ""},
		{`{"a":"\""}`, ""},
		{`{"a b":"c"}`, ""},
		{`{"a":"x..y"}`, ""},
		{`{"a":"b"} x`, ""},
		{`{"a":`, ""},
	}
	for _, tt := range tests {
		got, err := NestText(tt.in)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("nestText(%s) = %s, %v; want %s", tt.in, got, err, tt.want)
		}
	}
}

// TestRelate compares routes by example, each pair in both orders.
func TestRelate(t *testing.T) {
	tests := []struct {
		a, b string
		want Relation
	}{
		{"/", "GET /", Apart},
		{"GET /", "/adminer/", Apart},
		{"/a", "/a", Same},
		{"/a", "/a/", Apart},
		{"/a/{$}", "/a/", Apart},
		{"/a/{$}", "/a/{x}", Apart},
		{"/a/{$}", "/a/{x...}", Apart},
		{"/a/", "/a/{x...}", Same},
		{"/{x}", "/{y}", Same},
		{"/{x}", "/a", Apart},
		{"/{x}/b", "/a/{y}", Crossed},
		{"GET /{x}/b", "POST /a/{y}", Apart},
		{"GET /{x}/b", "HEAD /a/{y}", Crossed},
		{"GET /a", "HEAD /a", Apart},
		{"/{x}/b", "/a/", Crossed},
		{"/{x}/b/", "/a/{y...}", Crossed},
		{"/{x}/{y}", "/a/{y}", Apart},
		{"a.com/{x}/b", "/a/{y}", Apart},
		{"a.com/{x}/b", "b.com/a/{y}", Apart},
		{"*.com.org/{x}/b", "a.com.org/a/{y}", Apart},
		{"a.com/{x}/b", "A.com/a/{y}", Crossed},
		{"/%61", "/a", Same},
	}
	for _, tt := range tests {
		a, bad := ParsePattern(tt.a)
		b, bad2 := ParsePattern(tt.b)
		if bad != nil || bad2 != nil {
			t.Fatalf("%s, %s: %v, %v", tt.a, tt.b, bad, bad2)
		}
		if got, back := relate(a, b), relate(b, a); got != tt.want || back != tt.want {
			t.Errorf("relate(%s, %s) = %v and %v, want %v", tt.a, tt.b, got, back, tt.want)
		}
	}
}

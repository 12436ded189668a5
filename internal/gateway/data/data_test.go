package data

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"fairlead/internal/gateway/match"
)

func allNames(string) bool { return true }

func TestSubject(t *testing.T) {
	known := func(name string) bool { return name == "hs" || name == "op" }
	vars := func(hs string) match.Values {
		return match.Values{{Name: "hs", Value: hs}, {Name: "op", Value: "find"}}
	}
	tests := []struct {
		name, subject, value string
		want                 string // "" for an error
		compile              bool   // the error comes from compiling
	}{
		{"fixed", "flows.find", "", "flows.find", false},
		{"value", "flows.{hs}", "8517", "flows.8517", false},
		{"value within a token", "flows.hs-{hs}.{op}", "8517", "flows.hs-8517.find", false},
		{"value beyond ASCII", "flows.{hs}", "Zürich", "flows.Zürich", false},
		{"dot", "flows.{hs}", "85.17", "", false},
		{"star", "flows.{hs}", "*", "", false},
		{"greater", "flows.{hs}", "a>", "", false},
		{"space", "flows.{hs}", "a b", "", false},
		{"tab", "flows.{hs}", "a\tb", "", false},
		{"line break", "flows.{hs}", "a\r\nPUB x", "", false},
		{"zero", "flows.{hs}", "a\x00", "", false},
		{"no-break space", "flows.{hs}", "a\u00a0b", "", false},
		{"right to left mark", "flows.{hs}", "a\u200fb", "", false},
		{"not UTF-8", "flows.{hs}", "a\xff", "", false},
		{"empty", "flows.{hs}", "", "", false},
		{"long", "flows.{hs}", strings.Repeat("x", valueBytes+1), "", false},
		{"server's subjects by value", "{hs}.x", "$SYS", "", false},
		{"inboxes by value", "{hs}.x", "_INBOX", "", false},

		{"unknown name", "flows.{x}", "", "", true},
		{"open brace", "flows.{hs", "", "", true},
		{"closing brace", "flows.hs}", "", "", true},
		{"no name", "flows.{}", "", "", true},
		{"wildcard", "flows.*", "", "", true},
		{"rest", "flows.>", "", "", true},
		{"empty token", "flows..x", "", "", true},
		{"trailing dot", "flows.", "", "", true},
		{"white space", "flows find", "", "", true},
		{"empty subject", "", "", "", true},
		{"server's subjects", "$SYS.x", "", "", true},
		{"inboxes", "_FL.x", "", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseSubject(tt.subject, known)
			if (err != nil) != tt.compile {
				t.Fatalf("parse: %v", err)
			}
			if err != nil {
				return
			}
			got, err := s.Fill(vars(tt.value))
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Fatalf("subject is %q, %v; want %q", got, err, tt.want)
			}
			var input *Error
			if err != nil && (!errors.As(err, &input) || input.Status != http.StatusBadRequest) {
				t.Fatalf("error is %v", err)
			}
		})
	}
}

func TestDataWithoutTemplate(t *testing.T) {
	vars := match.Values{{Name: "hs", Value: "8517"}, {Name: "rest", Value: "a/b"}}
	tests := []struct {
		name, body, query string
		vars              match.Values
		want              string // "" for an error
	}{
		{"nothing", "", "", nil, `{}`},
		{"body alone counts", `[1]`, "a=b", vars, `[1]`},
		{"query", "", "b=2&a=x+y%26", nil, `{"a":"x y&","b":"2"}`},
		{"repeated parameter", "", "a=1&a=2&b=", nil, `{"a":["1","2"],"b":""}`},
		{"path", "", "", vars, `{"hs":"8517","rest":"a/b"}`},
		{"path wins", "", "hs=1&hs=2&z=3", vars, `{"hs":"8517","rest":"a/b","z":"3"}`},
		{"to be escaped", "", "a%22=%0a%5c", nil, "{\"a\\\"\":\"\\n\\\\\"}"},
		{"prototype", "", "__proto__=x", nil, `{"__proto__":"x"}`},
		{"bad escape", "", "a=%zz", nil, ""},
		{"semicolon", "", "a=1;b=2", nil, ""},
		{"not UTF-8", "", "a=%ff", nil, ""},
		{"too many", "", strings.Repeat("a=1&", queryMost+1), nil, ""},
		{"path not UTF-8", "", "", match.Values{{Name: "a", Value: "\xff"}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendDefault(nil, &Inputs{Body: []byte(tt.body), Query: tt.query, Path: tt.vars})
			if (err != nil) != (tt.want == "") || err == nil && string(got) != tt.want {
				t.Fatalf("data is %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestDataTemplate(t *testing.T) {
	full := Inputs{
		Body:  []byte(` {"a":{"b":[10,{"c":"x"}]},"n":null,"a.b":1} `),
		Query: "page=2&tag=x&tag=y",
		Path:  match.Values{{Name: "hs", Value: "8517"}, {Name: "q\"", Value: "z"}},
		User:  &User{Subject: "u1", Roles: []string{"admin", "viewer"}},
	}
	tests := []struct {
		name     string
		template any
		in       Inputs
		want     string
	}{
		{"literals", map[string]any{"b": true, "a": "x", "n": nil, "f": 1.5, "i": uint64(7), "l": []any{}}, full, `{"a":"x","b":true,"f":1.5,"i":7,"l":[],"n":null}`},
		{"path", map[string]any{"hs": "$path.hs"}, full, `{"hs":"8517"}`},
		{"whole path", "$path", full, `{"hs":"8517","q\"":"z"}`},
		{"query", map[string]any{"page": "$query.page", "tags": "$query.tag", "none": "$query.none"}, full, `{"page":"2","tags":["x","y"]}`},
		{"whole query", "$query", full, `{"page":"2","tag":["x","y"]}`},
		{"body", map[string]any{"all": "$body"}, full, `{"all": {"a":{"b":[10,{"c":"x"}]},"n":null,"a.b":1} }`},
		{"body alone", "$body", full, string(full.Body)},
		{"body's fields", []any{"$body.a.b.1.c", "$body.a.b.0", "$body.n", "$body.a.b"}, full, `["x",10,null,[10,{"c":"x"}]]`},
		{"fields that are not there", []any{"$body.x", "$body.a.b.2", "$body.a.b.-1", "$body.a.b.01", "$body.n.x", "$body.a.b.0.x"}, full, `[null,null,null,null,null,null]`},
		{"user", map[string]any{"by": "$user.sub", "roles": "$user.roles"}, full, `{"by":"u1","roles":["admin","viewer"]}`},
		{"nobody", map[string]any{"by": "$user.sub", "roles": "$user.roles", "x": 1}, Inputs{}, `{"x":1}`},
		{"user without roles", "$user.roles", Inputs{User: &User{Subject: "x"}}, `[]`},
		{"no body", map[string]any{"b": "$body", "f": "$body.x", "z": "$query.z", "l": []any{"$body.x"}}, Inputs{}, `{"l":[null]}`},
		{"no body alone", "$body", Inputs{}, `null`},
		{"escapes", []any{"$$body", "$$", "$$$", "a$body", "100$"}, full, `["$body","$","$$","a$body","100$"]`},
		{"nested", map[string]any{"filter": map[string]any{"hs": []any{"$path.hs", map[any]any{"p": "$query.page"}}}}, full, `{"filter":{"hs":["8517",{"p":"2"}]}}`},
		{"first members missing", map[string]any{"a": "$query.none", "b": "$query.none", "c": 1}, full, `{"c":1}`},
		{"body that is a number", "$body.x", Inputs{Body: []byte("7")}, `null`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tpl, err := ParseTemplate(tt.template, allNames)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tpl.Append([]byte("#"), &tt.in)
			if err != nil || string(got) != "#"+tt.want {
				t.Fatalf("data is %s, %v; want %s", got, err, tt.want)
			}
			if !json.Valid(got[1:]) {
				t.Fatal("data is not JSON")
			}
		})
	}
}

func TestDataTemplateErrors(t *testing.T) {
	deep := any("x")
	for range templateDepth + 1 {
		deep = []any{deep}
	}
	tests := []struct {
		name     string
		template any
	}{
		{"unknown reference", "$headers.x"},
		{"reference without name", "$path."},
		{"user's password", "$user.password"},
		{"user", "$user"},
		{"dollar alone", "$"},
		{"empty field", "$body.a..b"},
		{"trailing dot", "$body."},
		{"unknown path value", "$path.nope"},
		{"key that is no string", map[any]any{1: "x"}},
		{"no JSON form", func() {}},
		{"not UTF-8", "\xff"},
		{"too deep", deep},
	}
	known := func(name string) bool { return name == "hs" }
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseTemplate(map[string]any{"a": tt.template}, known); err == nil {
				t.Fatal("no error")
			}
		})
	}
}

func TestDataBodyCheck(t *testing.T) {
	tests := []struct {
		name, body string
		want       string // part of the public text, "" for good
	}{
		{"object", `{"a":[1,2.5e3,"x",null,true]}`, ""},
		{"string", `"x"`, ""},
		{"white space around", " \r\n{}\t", ""},
		{"words", "hello", "line 1, column 1"},
		{"unfinished", `{"a":`, "line 1, column 6"},
		{"second line", "{\n  \"a\": tru,\n}", "line 2, column 11"},
		{"two values", `{} {}`, "line 1, column 4"},
		{"byte order mark", "\ufeff{}", "line 1, column 1"},
		{"not UTF-8", "{\"a\":\"\xff\"}", "not UTF-8 at line 1, column 7"},
		{"as deep as allowed", strings.Repeat("[", jsonDepth) + strings.Repeat("]", jsonDepth), ""},
		{"too deep", strings.Repeat("[", jsonDepth+1) + strings.Repeat("]", jsonDepth+1), "deeper than"},
		{"brackets in a string", `"` + strings.Repeat(`[\"\\`, 500) + `"`, ""},
		{"far too deep", strings.Repeat("[", 20000), "not JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckJSON([]byte(tt.body))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("check: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDataMediaType(t *testing.T) {
	tests := []struct {
		name   string
		header http.Header
		ok     bool
	}{
		{"none", nil, true},
		{"json", http.Header{"Content-Type": {"application/json"}}, true},
		{"json in UTF-8", http.Header{"Content-Type": {"Application/JSON; charset=UTF-8"}}, true},
		{"a kind of json", http.Header{"Content-Type": {"application/merge-patch+json"}}, true},
		{"json in Latin-1", http.Header{"Content-Type": {"application/json; charset=iso-8859-1"}}, false},
		{"form", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, false},
		{"text", http.Header{"Content-Type": {"text/plain"}}, false},
		{"empty", http.Header{"Content-Type": {""}}, false},
		{"two", http.Header{"Content-Type": {"application/json", "text/plain"}}, false},
		{"compressed", http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := CheckMedia(tt.header); (err == nil) != tt.ok {
				t.Fatalf("check: %v", err)
			}
		})
	}
}

func TestDataReadBody(t *testing.T) {
	read := func(body io.Reader, limit int64) (string, error) {
		r := httptest.NewRequest(http.MethodPost, "/", body)
		b, err := AppendBody(nil, r, limit)
		return string(b), err
	}
	if got, err := read(strings.NewReader("12345"), 5); got != "12345" || err != nil {
		t.Fatalf("at the limit: %q, %v", got, err)
	}
	if _, err := read(strings.NewReader("123456"), 5); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("declared beyond the limit: %v", err)
	}
	if _, err := read(io.MultiReader(strings.NewReader("123456")), 5); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("undeclared beyond the limit: %v", err)
	}
	if got, err := read(io.MultiReader(strings.NewReader("12"), strings.NewReader("345")), 5); got != "12345" || err != nil {
		t.Fatalf("in pieces: %q, %v", got, err)
	}
}

func FuzzSubjectFill(f *testing.F) {
	f.Add("flows.{a}.x", "8517")
	f.Add("{a}", "$SYS")
	f.Add("a.{a}b{a}", "*")
	f.Fuzz(func(t *testing.T, subject, value string) {
		s, err := ParseSubject(subject, func(name string) bool { return name == "a" })
		if err != nil {
			return
		}
		got, err := s.Fill(match.Values{{Name: "a", Value: value}})
		if err != nil {
			return
		}
		if strings.Count(got, ".") != strings.Count(subject, ".") || strings.ContainsAny(got, "*> \t\r\n\x00") || !utf8.ValidString(got) || got[0] == '$' || got[0] == '_' {
			t.Fatalf("%q with %q is %q", subject, value, got)
		}
		for token := range strings.SplitSeq(got, ".") {
			if token == "" {
				t.Fatalf("%q with %q is %q", subject, value, got)
			}
		}
	})
}

func FuzzDataQuery(f *testing.F) {
	f.Add("a=1&a=2&b=%20", "x")
	f.Add("%ff", "\xff")
	f.Fuzz(func(t *testing.T, query, value string) {
		got, err := AppendDefault(nil, &Inputs{Query: query, Path: match.Values{{Name: "a", Value: value}}})
		if err != nil {
			return
		}
		var o map[string]any
		if err := json.Unmarshal(got, &o); err != nil {
			t.Fatalf("%q makes %q: %v", query, got, err)
		}
		if o["a"] != value {
			t.Fatalf("path value is %v, want %q", o["a"], value)
		}
	})
}

func FuzzDataTemplate(f *testing.F) {
	f.Add(`{"a":"$body.x.0","b":["$query.q","$$","$path.p"]}`, `{"x":[1]}`, "q=1")
	f.Add(`"$body"`, ``, "")
	f.Fuzz(func(t *testing.T, template, body, query string) {
		var v any
		if json.Unmarshal([]byte(template), &v) != nil {
			return
		}
		tpl, err := ParseTemplate(v, allNames)
		if err != nil {
			return
		}
		if body != "" && CheckJSON([]byte(body)) != nil {
			return
		}
		got, err := tpl.Append(nil, &Inputs{Body: []byte(body), Query: query, Path: match.Values{{Name: "p", Value: "v"}}})
		if err == nil && !json.Valid(got) {
			t.Fatalf("%s with %s makes %s", template, body, got)
		}
	})
}

func FuzzDataBody(f *testing.F) {
	f.Add([]byte(`{"a":[1]}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := CheckJSON(body); err == nil && !(json.Valid(body) && utf8.Valid(body)) {
			t.Fatalf("%q is taken for JSON", body)
		}
	})
}

func BenchmarkDataTemplate(b *testing.B) {
	tpl, err := ParseTemplate(map[string]any{"hs": "$path.hs", "page": "$query.page", "by": "$user.sub"}, allNames)
	if err != nil {
		b.Fatal(err)
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		in := Inputs{Query: "page=2", Path: match.Values{{Name: "hs", Value: "8517"}}, User: &User{Subject: "u1"}}
		if buf, err = tpl.Append(buf[:0], &in); err != nil {
			b.Fatal(err)
		}
	}
}

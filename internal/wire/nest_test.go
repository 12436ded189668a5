package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestAppendNestRequest(t *testing.T) {
	// As captured from a NestJS 10 client.
	tests := []struct{ name, pattern, data, id, want string }{
		{"object pattern", `{"area":"tradeflow","cmd":"findAll"}`, `{"hs":"8517"}`, "8a05240f92eb688d15dca", `{"pattern":{"area":"tradeflow","cmd":"findAll"},"data":{"hs":"8517"},"id":"8a05240f92eb688d15dca"}`},
		{"string", `"auth.login"`, `{"u":1}`, "a05240f92eb688d15dca1", `{"pattern":"auth.login","data":{"u":1},"id":"a05240f92eb688d15dca1"}`},
		{"event", `"user.created"`, `{"id":5}`, "", `{"pattern":"user.created","data":{"id":5}}`},
		{"data is not encoded again", `"p"`, ` { "a" : 1e2 } `, "1", `{"pattern":"p","data": { "a" : 1e2 } ,"id":"1"}`},
		{"no data", `"p"`, ``, "1", `{"pattern":"p","data":null,"id":"1"}`},
		{"id is quoted", `"p"`, `1`, "a\"\n\\é", `{"pattern":"p","data":1,"id":"a\"\n\\é"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := AppendNestRequest([]byte("x"), json.RawMessage(tt.pattern), []byte(tt.data), tt.id)
			if string(got) != "x"+tt.want {
				t.Errorf("got %s", got)
			}
			if !json.Valid(got[1:]) {
				t.Error("is not JSON")
			}
		})
	}
}

func TestParseNestReply(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	tests := []struct {
		name, in string
		want     NestReply
		bad      bool
	}{
		{"value", `{"response":{"token":"t","d":{"u":1}},"isDisposed":true,"id":"a0"}`, NestReply{Response: raw(`{"token":"t","d":{"u":1}}`), HasResponse: true, Disposed: true, ID: "a0"}, false},
		{"part of a stream", `{"response":1,"id":"52"}`, NestReply{Response: raw(`1`), HasResponse: true, ID: "52"}, false},
		{"undefined", `{"isDisposed":true,"id":"24"}`, NestReply{Disposed: true, ID: "24"}, false},
		{"null", `{"response":null,"isDisposed":true,"id":"40"}`, NestReply{Response: raw(`null`), HasResponse: true, Disposed: true, ID: "40"}, false},
		{"error", `{"err":{"statusCode":409,"message":"dup"},"isDisposed":true,"id":"f9"}`, NestReply{Err: raw(`{"statusCode":409,"message":"dup"}`), Disposed: true, ID: "f9"}, false},
		{"error is null", `{"err":null,"response":1,"isDisposed":true}`, NestReply{Response: raw(`1`), HasResponse: true, Disposed: true}, false},
		{"error is empty", `{"err":"","isDisposed":true}`, NestReply{Disposed: true}, false},
		{"spaces", " { \"response\" : [ 1 , \"}\" ] ,\n\"isDisposed\"\t: false , \"id\" : 7 } ", NestReply{Response: raw(`[ 1 , "}" ]`), HasResponse: true, ID: "7"}, false},
		{"escapes", `{"respon\u0073e":"\\\"","id":"\u0041"}`, NestReply{Response: raw(`"\\\""`), HasResponse: true, ID: "A"}, false},
		{"last of two", `{"response":1,"response":2}`, NestReply{Response: raw(`2`), HasResponse: true}, false},
		{"case counts", `{"Response":1,"isDisposed":true}`, NestReply{Disposed: true}, false},
		{"others ignored", `{"a":{"response":1},"isDisposed":true,"b":[{"err":2}]}`, NestReply{Disposed: true}, false},
		{"truthy is not true", `{"response":true,"isDisposed":1}`, NestReply{Response: raw(`true`), HasResponse: true}, false},
		{"empty", ``, NestReply{}, true},
		{"text", `hello`, NestReply{}, true},
		{"list", `[1]`, NestReply{}, true},
		{"empty object", `{}`, NestReply{}, true},
		{"foreign object", `{"token":"t","id":"x"}`, NestReply{}, true},
		{"cut off", `{"response":1`, NestReply{}, true},
		{"two", `{"response":1}{}`, NestReply{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseNestReply([]byte(tt.in))
			if tt.bad != errors.Is(err, ErrNestReply) || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestNestPattern(t *testing.T) {
	tests := []struct {
		name string
		in   any
		want string // the subject; "" for an error
	}{
		{"string", "auth.login", "auth.login"},
		{"wildcard", "time.*", "time.*"},
		{"map", map[string]any{"cmd": "findAll", "area": "tradeflow"}, `{"area":"tradeflow","cmd":"findAll"}`},
		{"map of strings", map[string]string{"b": "2", "a": "1"}, `{"a":"1","b":"2"}`},
		{"map of any to any", map[any]any{"b": 2, "a": 1}, `{"a":1,"b":2}`},
		{"nested", map[string]any{"z": 1, "a": map[string]any{"y": true, "b": nil}}, `{"a":{"b":null,"y":true},"z":1}`},
		{"numbers", map[string]any{"a": 1.0, "b": uint64(7), "c": 0.1, "d": 1e21, "e": json.Number("12")}, `{"a":1,"b":7,"c":0.1,"d":1e+21,"e":12}`},
		{"locale order", map[string]any{"B": 1, "a": 1, "b": 1, "A": 1, "_a": 1, "a1": 1, "aB": 1, "ab": 1}, `{"_a":1,"a":1,"A":1,"a1":1,"ab":1,"aB":1,"b":1,"B":1}`},
		{"empty map", map[string]any{}, `{}`},
		{"empty", "", ""},
		{"space", "a b", ""},
		{"line break", "a\r\nPUB x", ""},
		{"empty token", "a..b", ""},
		{"dot at the end", "a.", ""},
		{"dot first", ".a", ""},
		{"number alone", 5, ""},
		{"nil", nil, ""},
		{"quote in a value", map[string]any{"a": `x"y`}, ""},
		{"space in a key", map[string]any{"a b": 1}, ""},
		{"key not ASCII", map[string]any{"é": 1}, ""},
		{"list", map[string]any{"a": []any{1}}, ""},
		{"keys that are no strings", map[int]any{1: 1}, ""},
		{"empty token inside", map[string]any{"a": "x..y"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			subject, pattern, err := NestPattern(tt.in)
			if subject != tt.want || (err != nil) != (tt.want == "") {
				t.Fatalf("got %s, %v", subject, err)
			}
			if err != nil {
				return
			}
			if !json.Valid(pattern) {
				t.Errorf("pattern %s is not JSON", pattern)
			}
			if _, ok := tt.in.(string); !ok && string(pattern) != subject {
				t.Errorf("pattern is %s", pattern)
			}
		})
	}
	deep := map[string]any{}
	for range maxPatternDepth + 1 {
		deep = map[string]any{"a": deep}
	}
	if _, _, err := NestPattern(deep); err == nil {
		t.Error("no bound to the depth")
	}
}

func FuzzParseNestReply(f *testing.F) {
	for _, s := range []string{
		`{"response":{"token":"t","d":{"u":1}},"isDisposed":true,"id":"a0"}`,
		`{"err":{"status":"error","message":"Invalid credentials."},"isDisposed":true,"id":"0f"}`,
		` {"respon\u0073e" : [1,{"a":"\"}"},-1.5e3,null] , "id":5}`,
		`{}`, `hello`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseNestReply(b)
		var want map[string]json.RawMessage
		bad := json.Unmarshal(b, &want) != nil || want == nil
		if bad && err == nil {
			t.Fatalf("%q is accepted", b)
		}
		if err != nil {
			return
		}
		response, ok := want["response"]
		if ok != got.HasResponse || !bytes.Equal(response, got.Response) {
			t.Errorf("%q: response %q, want %q", b, got.Response, response)
		}
		if got.Err != nil && !bytes.Equal(want["err"], got.Err) {
			t.Errorf("%q: err %q, want %q", b, got.Err, want["err"])
		}
		if got.Disposed != (string(want["isDisposed"]) == "true") {
			t.Errorf("%q: disposed %v", b, got.Disposed)
		}
	})
}

func FuzzNestPattern(f *testing.F) {
	f.Add("auth.login", false)
	f.Add(`{"cmd":"findAll","area":{"b":1,"a":null}}`, true)
	f.Fuzz(func(t *testing.T, s string, object bool) {
		var v any = s
		if object && json.Unmarshal([]byte(s), &v) != nil {
			return
		}
		subject, pattern, err := NestPattern(v)
		if err != nil {
			return
		}
		if !json.Valid(pattern) {
			t.Errorf("pattern %q is not JSON", pattern)
		}
		if strings.ContainsAny(subject, " \t\r\n") || subject == "" {
			t.Errorf("subject %q", subject)
		}
		if req := AppendNestRequest(nil, pattern, []byte(`1`), "x"); !json.Valid(req) {
			t.Errorf("request %q is not JSON", req)
		}
	})
}

func BenchmarkAppendNestRequest(b *testing.B) {
	pattern := json.RawMessage(`{"area":"tradeflow","cmd":"findAll"}`)
	data := []byte(`{"hs":"8517","year":2023,"partner":"757","flow":"M","page":1}`)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendNestRequest(dst[:0], pattern, data, "8a05240f92eb688d15dca")
	}
}

func BenchmarkParseNestReply(b *testing.B) {
	reply := []byte(`{"response":{"token":"t","rows":[` + strings.Repeat(`{"hs":"8517","value":1234.5},`, 9) + `{}]},"isDisposed":true,"id":"a05240f92eb688d15dca1"}`)
	b.SetBytes(int64(len(reply)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseNestReply(reply); err != nil {
			b.Fatal(err)
		}
	}
}

package service

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"hs":"0101","year":"2023","page":"2","parts":"7"}`, `{"year":[1]}`, `{"YEAR":"1","year":true}`, `[]`, `{`, ``, `{"since":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got, plain findRequest
		err := decode(b, &got)
		if json.Unmarshal(b, &plain) == nil && (err != nil || !reflect.DeepEqual(got, plain)) {
			t.Errorf("%q: got %+v, %v; want %+v", b, got, err, plain)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Public == "") {
			t.Errorf("%q: %v", b, err)
		}
		if err == nil && len(b) > 0 && !json.Valid(b) {
			t.Errorf("%q is accepted", b)
		}
	})
}

func FuzzDeniedSubject(f *testing.F) {
	f.Add(`nats: permissions violation: Permissions Violation for Publish to "a.b"`)
	f.Add(`nats: permissions violation: Permissions Violation for Subscription to "{\"cmd\":1}" using queue "q" (sid "3")`)
	f.Fuzz(func(_ *testing.T, s string) { deniedSubject(s) })
}

func TestDeniedSubject(t *testing.T) {
	for text, want := range map[string][2]string{
		`nats: permissions violation: Permissions Violation for Publish to "a.b"`:                                        {"publish", "a.b"},
		`nats: permissions violation: Permissions Violation for Subscription to "{\"cmd\":1}" using queue "q" (sid "3")`: {"subscribe", `{"cmd":1}`},
		`nats: permissions violation: Permissions Violation for Publish with Reply of "_INBOX.x"`:                        {"reply", "_INBOX.x"},
		`something else`: {"", ""},
	} {
		if verb, subject := deniedSubject(text); verb != want[0] || subject != want[1] {
			t.Errorf("%s: got %s, %s", text, verb, subject)
		}
	}
}

func FuzzReadReply(f *testing.F) {
	f.Add("text", "404", "", "", []byte("x"))
	f.Add("", "", "201", "text/csv", []byte("a,b"))
	f.Fuzz(func(t *testing.T, text, code, status, media string, body []byte) {
		m := &nats.Msg{Data: body, Header: nats.Header{}}
		for name, v := range map[string]string{wire.HeaderError: text, wire.HeaderErrorCode: code, wire.HeaderStatus: status, wire.HeaderType: media} {
			if v != "" {
				m.Header[name] = []string{v}
			}
		}
		in, err := readReply(m)
		var e *Error
		switch {
		case err == nil && (in.status < 200 || in.status > 299 || text != "" || code != ""):
			t.Errorf("got %+v", in)
		case err != nil && (!errors.As(err, &e) || e.Status < 400 || e.Status > 599):
			t.Errorf("got %v", err)
		}
	})
}

func FuzzHeaderText(f *testing.F) {
	f.Add("a\r\nb")
	f.Add(strings.Repeat("é", 400))
	f.Fuzz(func(t *testing.T, s string) {
		got := headerText(s)
		if strings.ContainsAny(got, "\r\n") || len(got) > maxErrorHeader || !utf8.ValidString(got) {
			t.Errorf("%q became %q", s, got)
		}
	})
}

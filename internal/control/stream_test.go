package control

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReader(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string // kinds of lines, then the error's text
	}{
		{"event and result", `{"event":{"kind":"info"}}` + "\n" + `{"result":{}}` + "\n", []string{"event", "result"}},
		{"null result ends too", `{"result":null}` + "\n", []string{"result"}},
		{"blank and unknown lines", "\n\r\n" + `{"beat":1}` + "\n" + `{"item":1}` + "\n" + `{"error":{"code":"x"}}` + "\n", []string{"item", "error"}},
		{"nothing", "", []string{"the answer broke off"}},
		{"breaks off between lines", `{"item":1}` + "\n", []string{"item", "the answer broke off"}},
		{"breaks off within a line", `{"item":1}` + "\n" + `{"result":{}}`, []string{"item", "the answer broke off"}},
		{"not JSON", "<html>\n", []string{"read answer: invalid character '<' looking for beginning of value"}},
		{"line too long", `{"item":"` + strings.Repeat("x", 100_000) + "\"}\n", []string{"read answer: a line is above 65536 bytes"}},
		{"long line", `{"item":"` + strings.Repeat("x", 60_000) + "\"}\n{\"result\":1}\n", []string{"item", "result"}},
	}
	for _, tt := range tests {
		for _, way := range []string{"at once", "by byte"} {
			t.Run(tt.name+" "+way, func(t *testing.T) {
				var in io.Reader = strings.NewReader(tt.in)
				if way == "by byte" {
					in = iotest.OneByteReader(in)
				}
				r := newReader(in)
				r.max = 64 << 10
				var got []string
				for {
					l, err := r.next()
					if err != nil {
						got = append(got, err.Error())
						break
					}
					got = append(got, l.kind())
					if l.last() {
						break
					}
				}
				if strings.Join(got, "|") != strings.Join(tt.want, "|") {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		}
	}
}

func (l line) kind() string {
	switch {
	case l.Event != nil:
		return "event"
	case l.Error != nil:
		return "error"
	case l.Result != nil:
		return "result"
	default:
		return "item"
	}
}

// FuzzReader feeds arbitrary bytes, and checks that the reader ends, never gives
// an empty line, and reads the same however the bytes are cut.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"event":{"kind":"info","text":"x"}}` + "\n" + `{"result":{"a":1}}` + "\n"))
	f.Add([]byte(`{"item":[1,2]}` + "\r\n\r\n" + `{"error":{"code":"failed","message":"m"}}` + "\n"))
	f.Add([]byte(`{"result":null}`))
	f.Add([]byte("{}\n{}\n\x00\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		read := func(src io.Reader) (kinds []string) {
			r := newReader(src)
			r.max = 1 << 12
			for {
				l, err := r.next()
				if err != nil {
					if errors.Is(err, io.EOF) {
						t.Fatal("a bare EOF would pass for an end")
					}
					return append(kinds, "error: "+err.Error())
				}
				if l.Event == nil && l.Item == nil && !l.last() {
					t.Fatal("an empty line was given")
				}
				kinds = append(kinds, l.kind()+string(l.Item)+string(l.Result))
			}
		}
		whole := read(strings.NewReader(string(in)))
		cut := read(iotest.OneByteReader(strings.NewReader(string(in))))
		if strings.Join(whole, "\n") != strings.Join(cut, "\n") {
			t.Errorf("at once: %q\nby byte: %q", whole, cut)
		}
	})
}

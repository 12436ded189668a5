package websocket

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

func TestHandshake(t *testing.T) {
	tests := []struct {
		name   string
		edit   func(r *http.Request)
		accept string
		status int
	}{
		{"that of RFC 6455", func(*http.Request) {}, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 0},
		{"another method", func(r *http.Request) { r.Method = "POST" }, "", 400},
		{"HTTP/2", func(r *http.Request) { r.ProtoMajor = 2 }, "", 400},
		{"another version", func(r *http.Request) { r.Header.Set("Sec-Websocket-Version", "8") }, "", 426},
		{"no key", func(r *http.Request) { r.Header.Del("Sec-Websocket-Key") }, "", 400},
		{"two keys", func(r *http.Request) { r.Header.Add("Sec-Websocket-Key", "x") }, "", 400},
		{"a short key", func(r *http.Request) { r.Header.Set("Sec-Websocket-Key", "c2hvcnQ=") }, "", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
			r.Header.Set("Sec-Websocket-Version", "13")
			r.Header.Set("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
			tt.edit(r)
			accept, status, err := Handshake(r)
			if accept != tt.accept || status != tt.status || (err == nil) != (tt.status == 0) {
				t.Errorf("%q, %d, %v", accept, status, err)
			}
		})
	}
}

// maskedFrame is a frame of a client.
func maskedFrame(head byte, payload string) string {
	b := AppendFrame(nil, 0, []byte(payload))
	b[0] = head
	b[1] |= masked
	n := len(b) - len(payload)
	key := [4]byte{1, 2, 3, 4}
	out := append(append([]byte{}, b[:n]...), key[:]...)
	for i := range len(payload) {
		out = append(out, payload[i]^key[i%4])
	}
	return string(out)
}

func TestReader(t *testing.T) {
	ping, bye := maskedFrame(0x89, "are you there"), maskedFrame(0x88, "\x03\xe8bye")
	tests := []struct {
		name, in, want string
		err            error
	}{
		{"control frames", ping + bye, "9 are you there 8 \x03\xe8bye", io.EOF},
		{"text is passed over", maskedFrame(0x81, strings.Repeat("x", 4000)) + ping, "9 are you there", io.EOF},
		{"fragments", maskedFrame(0x01, "a") + ping + maskedFrame(0x80, "b"), "9 are you there", io.EOF},
		{"the largest control frame", maskedFrame(0x8a, strings.Repeat("y", 125)), "10 " + strings.Repeat("y", 125), io.EOF},
		{"a control frame that is too large", maskedFrame(0x89, strings.Repeat("y", 126)), "", ErrProtocol},
		{"a control frame in parts", maskedFrame(0x09, ""), "", ErrProtocol},
		{"no mask", string(AppendFrame(nil, OpPing, nil)), "", ErrProtocol},
		{"an extension", maskedFrame(0xc1, "a"), "", ErrProtocol},
		{"too much text", maskedFrame(0x81, strings.Repeat("x", 5000)), "", ErrTooBig},
		{"an end in a frame", ping[:8], "", io.EOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{"whole": strings.NewReader(tt.in), "bytewise": iotest.OneByteReader(strings.NewReader(tt.in))} {
				got, err := readAll(r)
				if got != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			}
		})
	}
}

func readAll(r io.Reader) (string, error) {
	f := NewReader(r)
	var got []string
	for {
		op, payload, err := f.Next(func() {})
		if err != nil {
			return strings.Join(got, " "), err
		}
		got = append(got, strings.TrimSpace(itoa(op)+" "+string(payload)))
	}
}

func itoa(op byte) string {
	if op >= 10 {
		return "1" + string('0'+op-10)
	}
	return string('0' + op)
}

// FuzzReader reads what any client may send, whole and in pieces, with the same result.
func FuzzReader(f *testing.F) {
	f.Add([]byte(maskedFrame(0x89, "ping") + maskedFrame(0x81, "text") + maskedFrame(0x88, "")))
	f.Add([]byte{0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, err := readAll(bytes.NewReader(b))
		pieces, again := readAll(iotest.OneByteReader(bytes.NewReader(b)))
		if whole != pieces || err.Error() != again.Error() {
			t.Errorf("%q %v, in pieces %q %v", whole, err, pieces, again)
		}
	})
}

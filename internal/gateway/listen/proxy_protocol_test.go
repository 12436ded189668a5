package listen

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"fairlead/internal/system"
)

// v2 builds a header of version 2.
func v2(command, family byte, rest ...byte) string {
	b := append([]byte(proxyV2Magic), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rest)))
	return string(append(b, rest...))
}

var (
	four = []byte{192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80}
	six  = append(append(make([]byte, 0, 36), netip.MustParseAddr("2001:db8::7").AsSlice()...), append(netip.MustParseAddr("::1").AsSlice(), 0x1f, 0x90, 0, 80)...)
)

var proxyHeaders = []struct {
	name, header string
	client       string // "" for none
	fails        string
}{
	{"v1 tcp4", "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n", "192.0.2.7:8080", ""},
	{"v1 tcp6", "PROXY TCP6 2001:db8::7 ::1 8080 80\r\n", "[2001:db8::7]:8080", ""},
	{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.7 ::1 8080 80\r\n", "192.0.2.7:8080", ""},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", ""},
	{"v1 unknown with addresses", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", ""},
	{"v1 longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", ""},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 120) + "\r\n", "", "too long"},
	{"v1 family", "PROXY UDP4 192.0.2.7 127.0.0.1 8080 80\r\n", "", "malformed"},
	{"v1 wrong family", "PROXY TCP4 2001:db8::7 ::1 8080 80\r\n", "", "malformed"},
	{"v1 port", "PROXY TCP4 192.0.2.7 127.0.0.1 80800 80\r\n", "", "malformed"},
	{"v1 leading zero", "PROXY TCP4 192.0.2.7 127.0.0.1 080 80\r\n", "", "malformed"},
	{"v1 signed port", "PROXY TCP4 192.0.2.7 127.0.0.1 +80 80\r\n", "", "malformed"},
	{"v1 two spaces", "PROXY TCP4  192.0.2.7 127.0.0.1 8080 80\r\n", "", "malformed"},
	{"v1 trailing space", "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80 \r\n", "", "malformed"},
	{"v1 bare line feed", "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\n", "", "CR LF"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 ::1 8080 80\r\n", "", "malformed"},
	{"v1 cut off", "PROXY TCP4 192.0.2.7", "", "EOF"},
	{"small letters", "proxy tcp4 192.0.2.7 127.0.0.1 8080 80\r\n", "", "does not begin"},
	{"http", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", "does not begin"},
	{"nothing", "", "", "EOF"},
	{"v2 tcp4", v2(0x21, 0x11, four...), "192.0.2.7:8080", ""},
	{"v2 tcp4 with options", v2(0x21, 0x11, append(append([]byte{}, four...), 3, 0, 4, 1, 2, 3, 4)...), "192.0.2.7:8080", ""},
	{"v2 tcp6", v2(0x21, 0x21, six...), "[2001:db8::7]:8080", ""},
	{"v2 local", v2(0x20, 0x00), "", ""},
	{"v2 local with addresses", v2(0x20, 0x11, four...), "", ""},
	{"v2 unspecified", v2(0x21, 0x00), "", ""},
	{"v2 unix", v2(0x21, 0x31, make([]byte, 216)...), "", ""},
	{"v2 datagram", v2(0x21, 0x12, four...), "", ""},
	{"v2 cut addresses", v2(0x21, 0x11, four[:11]...), "", "cut off"},
	{"v2 cut addresses of six", v2(0x21, 0x21, four...), "", "cut off"},
	{"v2 version", v2(0x31, 0x11, four...), "", "version"},
	{"v2 command", v2(0x22, 0x11, four...), "", "command"},
	{"v2 too long", v2(0x21, 0x11, make([]byte, proxyV2Most+1)...), "", "too long"},
	{"v2 cut off", v2(0x21, 0x11, four...)[:20], "", "EOF"},
}

func TestReadProxyHeader(t *testing.T) {
	for _, tt := range proxyHeaders {
		t.Run(tt.name, func(t *testing.T) {
			in := strings.NewReader(tt.header + "rest")
			if tt.fails == "EOF" {
				in = strings.NewReader(tt.header)
			}
			got, err := readProxyHeader(in)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("got %v, %v, want an error with %q", got, err, tt.fails)
				}
				return
			}
			client := ""
			if got.IsValid() {
				client = got.String()
			}
			if err != nil || client != tt.client {
				t.Fatalf("got %q, %v, want %q", client, err, tt.client)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "rest" {
				t.Errorf("what follows is %q", rest)
			}
		})
	}
}

func FuzzReadProxyHeader(f *testing.F) {
	for _, tt := range proxyHeaders {
		f.Add([]byte(tt.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		got, err := readProxyHeader(in)
		read := len(b) - in.Len()
		if read > max(proxyV1Most, proxyV2Fixed+proxyV2Most) {
			t.Errorf("read %d bytes", read)
		}
		if err != nil && got.IsValid() {
			t.Errorf("both %v and %v", got, err)
		}
		if err == nil && bytes.HasPrefix(b, []byte(proxyV1Prefix)) && b[read-1] != '\n' {
			t.Error("read beyond the line")
		}
		if got.IsValid() && (got.Addr().Is4In6() || got.Addr().Zone() != "") {
			t.Errorf("address %v", got)
		}
	})
}

func TestLooksProxied(t *testing.T) {
	for in, want := range map[string]bool{
		"": false, "P": false, "PROXY": false, "PROXY ": true, "PROXY TCP4": true, "POST ": false, "\r": false, "\r\n": false,
		"\r\n\r\n": true, "\r\n\r\n\x00\r\nQ": true, proxyV2Magic + "x": true, "\r\n\r\nGET": false, "\x16\x03\x01\x02": false,
	} {
		if looksProxied([]byte(in)) != want {
			t.Errorf("%q: %t", in, !want)
		}
	}
}

func TestProxyProtocolAtTheDoor(t *testing.T) {
	var log syncBuffer
	d := newDoors(t, nil, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	here, elsewhere := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")
	d.listen(
		system.Listener{Address: "127.0.0.1:0", ProxyProtocol: []netip.Prefix{here}},
		system.Listener{Address: "127.0.0.1:0", ProxyProtocol: []netip.Prefix{elsewhere}},
		system.Listener{Address: "127.0.0.1:0"},
	)
	const request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	const header = "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n"
	for _, tt := range []struct {
		name     string
		listener int
		send     string
		want     string // in the answer; "" for none at all
	}{
		{"named", 0, header + request, "client=192.0.2.7"},
		{"named by version 2", 0, v2(0x21, 0x21, six...) + request, "client=2001:db8::7"},
		{"the proxy itself", 0, "PROXY UNKNOWN\r\n" + request, "client=127.0.0.1"},
		{"must be named", 0, request, ""},
		{"may not be named", 1, header + request, ""},
		{"may not be named by version 2", 1, v2(0x21, 0x11, four...) + request, ""},
		{"needs no name", 1, request, "client=127.0.0.1"},
		{"is not spoken here", 2, header + request, "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := d.dial(tt.listener)
			if _, err := io.WriteString(c, tt.send); err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(c)
			if (tt.want == "") != (len(got) == 0) || !strings.Contains(string(got), tt.want) {
				t.Errorf("answered %q, want %q", got, tt.want)
			}
		})
	}
	if n := strings.Count(log.String(), refusalTexts[refusedHeader]); n != 1 {
		t.Errorf("told %d times of refused headers: %s", n, log.String())
	}
	if n := strings.Count(log.String(), refusalTexts[refusedProxy]); n != 1 {
		t.Errorf("told %d times of missing headers: %s", n, log.String())
	}
	if got := d.Refused(); got["proxy"] != 3 || got["full"] != 0 || got["connection"] != 0 {
		t.Errorf("refused %v", got)
	}
}

// syncBuffer is a buffer that a test reads while others write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func BenchmarkReadProxyHeader(b *testing.B) {
	for name, header := range map[string]string{"v1": proxyHeaders[0].header, "v2": v2(0x21, 0x11, four...)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := readProxyHeader(strings.NewReader(header)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

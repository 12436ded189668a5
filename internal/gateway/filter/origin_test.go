package filter

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestDerive(t *testing.T) {
	trusted := NewSet(prefixes(t, "10.0.0.0/8", "fd00::/8"))
	long := strings.TrimSuffix(strings.Repeat("10.0.0.9, ", 2*MaxHops), ", ")
	tests := []struct {
		name   string
		remote string
		h      http.Header
		client string
		via    []string // the nearest first
		scheme string   // default http
		host   string   // default door
	}{
		{"nothing", "192.0.2.1:99", nil, "192.0.2.1", nil, "", ""},
		{"mapped", "[::ffff:192.0.2.1]:99", nil, "192.0.2.1", nil, "", ""},
		{"zone", "[fe80::1%eth0]:99", nil, "fe80::1", nil, "", ""},
		{"unix socket", "@", nil, "", nil, "", ""},
		{"no address", "", http.Header{"X-Forwarded-For": {"10.0.0.1"}}, "", nil, "", ""},

		{"untrusted peer", "192.0.2.1:99", http.Header{
			"X-Forwarded-For": {"10.0.0.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"evil"}, "Forwarded": {"for=10.0.0.7;proto=https;host=evil"},
		}, "192.0.2.1", nil, "", ""},
		{"trusted peer without headers", "10.0.0.1:99", nil, "10.0.0.1", nil, "", ""},
		{"one hop", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7"}}, "192.0.2.7", []string{"10.0.0.1"}, "", ""},
		{"what the client wrote is not looked at", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"127.0.0.1, 192.0.2.7"}}, "192.0.2.7", []string{"10.0.0.1"}, "", ""},
		{"nor in a line before", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"127.0.0.1", "192.0.2.7"}}, "192.0.2.7", []string{"10.0.0.1"}, "", ""},
		{"two hops", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"1.1.1.1,192.0.2.7 ,\t10.0.0.2"}}, "192.0.2.7", []string{"10.0.0.1", "10.0.0.2"}, "", ""},
		{"two hops in lines", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"1.1.1.1, 192.0.2.7", "10.0.0.2"}}, "192.0.2.7", []string{"10.0.0.1", "10.0.0.2"}, "", ""},
		{"all trusted", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"10.0.0.3, 10.0.0.2"}}, "10.0.0.3", []string{"10.0.0.1", "10.0.0.2"}, "", ""},
		{"with ports", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7:1234, 10.0.0.2:80"}}, "192.0.2.7", []string{"10.0.0.1", "10.0.0.2"}, "", ""},
		{"IPv6", "[fd00::1]:99", http.Header{"X-Forwarded-For": {"2001:db8::7, [fd00::2], [fd00::3]:80"}}, "2001:db8::7", []string{"fd00::1", "fd00::3", "fd00::2"}, "", ""},
		{"mapped in the list", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7, ::ffff:10.0.0.2"}}, "192.0.2.7", []string{"10.0.0.1", "10.0.0.2"}, "", ""},
		{"mapped client", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"::ffff:192.0.2.7"}}, "192.0.2.7", []string{"10.0.0.1"}, "", ""},

		{"malformed at once", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7, x"}}, "10.0.0.1", nil, "", ""},
		{"malformed later", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7, <b>, 10.0.0.2"}}, "10.0.0.2", []string{"10.0.0.1"}, "", ""},
		{"empty element", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7,,10.0.0.2"}}, "10.0.0.2", []string{"10.0.0.1"}, "", ""},
		{"empty", "10.0.0.1:99", http.Header{"X-Forwarded-For": {""}}, "10.0.0.1", nil, "", ""},
		{"zone in the list", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"fe80::1%x"}}, "10.0.0.1", nil, "", ""},
		{"port that is none", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7:http"}}, "10.0.0.1", nil, "", ""},
		{"octal", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"010.0.0.2"}}, "10.0.0.1", nil, "", ""},
		{"a name", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"localhost"}}, "10.0.0.1", nil, "", ""},
		{"too many hops", "10.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7, " + long}}, "10.0.0.9", nil, "", ""},
		{"too long", "10.0.0.1:99", http.Header{"X-Forwarded-For": {strings.Repeat("1", 1<<16)}}, "10.0.0.1", nil, "", ""},

		{"Forwarded", "10.0.0.1:99", http.Header{"Forwarded": {`for=192.0.2.7;proto=https;host="shop.example.com:444"`}}, "192.0.2.7", []string{"10.0.0.1"}, "https", "shop.example.com:444"},
		{"Forwarded of two", "10.0.0.1:99", http.Header{"Forwarded": {`for=1.1.1.1, FOR="192.0.2.7:5";by=x, for=10.0.0.2;proto=https`}}, "192.0.2.7", []string{"10.0.0.1", "10.0.0.2"}, "https", ""},
		{"Forwarded with IPv6", "10.0.0.1:99", http.Header{"Forwarded": {`for="[2001:db8::7]:80"`}}, "2001:db8::7", []string{"10.0.0.1"}, "", ""},
		{"Forwarded with bare IPv6", "10.0.0.1:99", http.Header{"Forwarded": {`for="2001:db8::7"`}}, "10.0.0.1", nil, "", ""},
		{"Forwarded unknown", "10.0.0.1:99", http.Header{"Forwarded": {`for=192.0.2.7, for=unknown, for=10.0.0.2`}}, "10.0.0.2", []string{"10.0.0.1"}, "", ""},
		{"Forwarded obfuscated", "10.0.0.1:99", http.Header{"Forwarded": {`for=_hidden`}}, "10.0.0.1", nil, "", ""},
		{"an open quote on the left swallows nothing", "10.0.0.1:99", http.Header{"Forwarded": {`for="127.0.0.1, for=192.0.2.7`}}, "192.0.2.7", []string{"10.0.0.1"}, "", ""},
		{"a quoted comma", "10.0.0.1:99", http.Header{"Forwarded": {`for=192.0.2.7;x="a,b"`}}, "10.0.0.1", nil, "", ""},
		{"for twice", "10.0.0.1:99", http.Header{"Forwarded": {`for=192.0.2.7;for=192.0.2.8`}}, "10.0.0.1", nil, "", ""},
		{"X-Forwarded-For comes before Forwarded", "10.0.0.1:99", http.Header{
			"X-Forwarded-For": {"192.0.2.7"}, "Forwarded": {"for=192.0.2.8;proto=https;host=evil"},
		}, "192.0.2.7", []string{"10.0.0.1"}, "", ""},

		{"scheme and host", "10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"HTTPS"}, "X-Forwarded-Host": {"shop.example.com"}}, "10.0.0.1", nil, "https", "shop.example.com"},
		{"WebSocket scheme", "10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"wss"}}, "10.0.0.1", nil, "https", ""},
		{"the nearest proxy's word", "10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"https, http"}, "X-Forwarded-Host": {"evil, good"}}, "10.0.0.1", nil, "", "good"},
		{"another scheme", "10.0.0.1:99", http.Header{"X-Forwarded-Proto": {"javascript"}}, "10.0.0.1", nil, "", ""},
		{"a host that is none", "10.0.0.1:99", http.Header{"X-Forwarded-Host": {"a/b"}}, "10.0.0.1", nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Derive(trusted, tt.remote, tt.h, "http", "door")
			var client netip.Addr
			if tt.client != "" {
				client = addr(t, tt.client)
			}
			if o.Client != client {
				t.Errorf("client is %v, want %v", o.Client, client)
			}
			if tt.name != "too many hops" {
				var via []string
				for _, a := range o.via {
					via = append(via, a.String())
				}
				if !slices.Equal(via, tt.via) {
					t.Errorf("via is %v, want %v", via, tt.via)
				}
			}
			if want := map[bool]string{true: "http", false: tt.scheme}[tt.scheme == ""]; o.Scheme != want {
				t.Errorf("scheme is %q, want %q", o.Scheme, want)
			}
			if want := map[bool]string{true: "door", false: tt.host}[tt.host == ""]; o.Host != want {
				t.Errorf("host is %q, want %q", o.Host, want)
			}
		})
	}
}

func TestOriginIsPassedOn(t *testing.T) {
	trusted := NewSet(prefixes(t, "10.0.0.0/8", "fd00::/8"))
	tests := []struct {
		name, remote, forwardedFor string
		chain, forwarded           string
	}{
		{"a client", "192.0.2.1:9", "", "192.0.2.1", `for=192.0.2.1;host="door";proto=http`},
		{"a client that lies", "192.0.2.1:9", "127.0.0.1", "192.0.2.1", `for=192.0.2.1;host="door";proto=http`},
		{"proxies", "10.0.0.1:9", "127.0.0.1, 2001:db8::7, fd00::2", "2001:db8::7, fd00::2, 10.0.0.1", `for="[2001:db8::7]";host="door";proto=http, for="[fd00::2]", for=10.0.0.1`},
		{"no address", "@", "", "unknown", `for=unknown;host="door";proto=http`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			if tt.forwardedFor != "" {
				h["X-Forwarded-For"] = []string{tt.forwardedFor}
			}
			o := Derive(trusted, tt.remote, h, "http", "door")
			if got := string(o.AppendFor(nil)); got != tt.chain {
				t.Errorf("X-Forwarded-For: %s, want %s", got, tt.chain)
			}
			if got := string(o.AppendForwarded(nil)); got != tt.forwarded {
				t.Errorf("Forwarded: %s, want %s", got, tt.forwarded)
			}
		})
	}
}

// FuzzDerive checks that no text on the left of a good element changes what is
// derived, and that the client is always an address that was written or connected.
func FuzzDerive(f *testing.F) {
	for _, s := range []string{"", "1.2.3.4", `for="[::1]:80"`, `"`, ",", "10.0.0.1, x", `for="a\"b", `, "unknown", "[::1", "1.2.3.4:99999", "::ffff:1.2.3.4"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	trusted := NewSet(prefixes(f, "10.0.0.0/8"))
	client := addr(f, "192.0.2.7")
	f.Fuzz(func(t *testing.T, left string, rfc bool) {
		name, good := "X-Forwarded-For", "192.0.2.7"
		if rfc {
			name, good = "Forwarded", "for=192.0.2.7;proto=https"
		}
		for _, lines := range [][]string{{left + "," + good}, {left, good}, {left + "," + strings.ReplaceAll(good, "192.0.2.7", "10.0.0.3") + "," + good}} {
			o := Derive(trusted, "10.0.0.1:5", http.Header{name: lines}, "http", "h")
			if o.Client != client || len(o.via) != 1 {
				t.Fatalf("%q: client is %v", lines, o.Client)
			}
		}
		o := Derive(trusted, "10.0.0.1:5", http.Header{name: {left}}, "http", "h")
		if !o.Client.IsValid() || o.Client.Zone() != "" || o.Client.Is4In6() || len(o.via) > MaxHops {
			t.Fatalf("%q: client is %v", left, o.Client)
		}
		if chain := string(o.AppendFor(nil)); strings.ContainsAny(chain, "\r\n\"<>") {
			t.Fatalf("%q: chain is %q", left, chain)
		}
		// Whoever is no trusted proxy is not believed.
		if o := Derive(trusted, "192.0.2.9:5", http.Header{name: {left}, "X-Forwarded-Proto": {left}, "X-Forwarded-Host": {left}}, "http", "h"); o.Client.String() != "192.0.2.9" || o.Scheme != "http" || o.Host != "h" {
			t.Fatalf("%q: believed an untrusted peer: %+v", left, o)
		}
	})
}

func BenchmarkDerive(b *testing.B) {
	trusted := NewSet(prefixes(b, "10.0.0.0/8"))
	for name, c := range map[string]struct {
		remote string
		h      http.Header
	}{
		"direct": {"192.0.2.1:9", http.Header{}},
		"proxy":  {"10.0.0.1:9", http.Header{"X-Forwarded-For": {"1.1.1.1, 192.0.2.7"}, "X-Forwarded-Proto": {"https"}}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Derive(trusted, c.remote, c.h, "http", "door")
			}
		})
	}
}

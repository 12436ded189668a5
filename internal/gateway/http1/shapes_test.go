package http1

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// shape is a way to write a request, and what is made of it. Behind each the test
// sends another request: that must be seen exactly if the connection stays open.
type shape struct {
	name   string
	raw    string
	status int    // of the first answer; 0: none
	sees   string // what handlers see, one line for each request; "" for nothing
	open   bool   // the connection takes another request
}

// behind is sent behind every shape, and what handlers see of it.
const (
	behind     = "GET /behind HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	behindSeen = `GET /behind x ""`
)

// ok is a shape of which a handler sees this, and that leaves the connection open.
func ok(name, raw, sees string) shape { return shape{name, raw, 200, sees, true} }

// last is one of which a handler sees this, and that ends the connection.
func last(name, raw, sees string) shape { return shape{name, raw, 200, sees, false} }

// bad is one that is refused.
func bad(status int, name, raw string) shape { return shape{name, raw, status, "", false} }

// broken is one whose body is malformed: a handler sees the request, and that the
// body breaks off.
func broken(name, raw, sees string) shape { return shape{name, raw, 400, sees + " broken", false} }

// with is a GET with a line more.
func with(line string) string { return "GET / HTTP/1.1\r\nHost: x\r\n" + line + "\r\n\r\n" }

// post is a POST with these lines and this body.
func post(lines, body string) string {
	return "POST / HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n\r\n" + body
}

// chunks is a POST in chunks.
func chunks(body string) string { return post("Transfer-Encoding: chunked", body) }

// hosted is a GET with this Host line.
func hosted(line string) string { return "GET / HTTP/1.1\r\n" + line + "\r\n\r\n" }

const (
	plain = `GET / x ""`
	hello = `POST / x "hello"`
	empty = `POST / x ""`
)

var shapes = slices.Concat(requestLines, targets, fields, hosts, lengths, codings, chunkings, expectations, connections)

var requestLines = []shape{
	ok("plain", with("A: b"), plain),
	ok("no header but the host", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", plain),
	ok("one empty line before", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", plain),
	ok("unknown method", "PURGE / HTTP/1.1\r\nHost: x\r\n\r\n", `PURGE / x ""`),
	ok("method of odd token characters", "M-SEARCH! / HTTP/1.1\r\nHost: x\r\n\r\n", `M-SEARCH! / x ""`),
	ok("method in small letters", "get / HTTP/1.1\r\nHost: x\r\n\r\n", `get / x ""`),
	bad(400, "two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "bare line feed before", "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "space before the method", " GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "tab before the method", "\tGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "two spaces before the target", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "two spaces behind the target", "GET /  HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "tab before the target", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "tab behind the target", "GET /\tHTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "vertical tab for a space", "GET /\x0bHTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "form feed for a space", "GET\x0c/ HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "space behind the version", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n"),
	bad(400, "something behind the version", "GET / HTTP/1.1 x\r\nHost: x\r\n\r\n"),
	bad(400, "space in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "no version", "GET /\r\nHost: x\r\n\r\n"),
	bad(400, "no version but a space", "GET / \r\nHost: x\r\n\r\n"),
	bad(400, "HTTP/0.9", "GET /\r\n"),
	bad(400, "no target", "GET HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "only a method", "GET\r\nHost: x\r\n\r\n"),
	bad(400, "empty method", " / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "method that is no token", "G@T / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "method in quotes", "\"GET\" / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "method with NUL", "G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "method with a bare CR", "G\rT / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "method with a colon", "GET: / HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "small letters in the version", "GET / http/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "mixed letters in the version", "GET / HTtP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "another protocol", "GET / HTTQ/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "version with a comma", "GET / HTTP/1,1\r\nHost: x\r\n\r\n"),
	bad(400, "version with two digits", "GET / HTTP/1.10\r\nHost: x\r\n\r\n"),
	bad(400, "version with a leading zero", "GET / HTTP/01.1\r\nHost: x\r\n\r\n"),
	bad(400, "version without a minor", "GET / HTTP/1\r\nHost: x\r\n\r\n"),
	bad(400, "version without digits", "GET / HTTP/\r\nHost: x\r\n\r\n"),
	bad(400, "version with a space", "GET / HTTP/ 1.1\r\nHost: x\r\n\r\n"),
	bad(400, "version with a sign", "GET / HTTP/+1.1\r\nHost: x\r\n\r\n"),
	bad(505, "version 1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n"),
	bad(505, "version 0.9 in writing", "GET / HTTP/0.9\r\nHost: x\r\n\r\n"),
	bad(505, "version 2.0", "GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
	bad(505, "version 9.9", "GET / HTTP/9.9\r\nHost: x\r\n\r\n"),
	bad(505, "the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
	bad(400, "a TLS handshake", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
	bad(400, "only NUL", "\x00\x00\x00\x00"),
	bad(400, "bare line feeds everywhere", "GET / HTTP/1.1\nHost: x\n\n"),
	bad(400, "bare line feed behind the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n"),
	bad(400, "bare CR behind the request line", "GET / HTTP/1.1\rHost: x\r\n\r\n"),
	bad(400, "two CRs behind the request line", "GET / HTTP/1.1\r\r\nHost: x\r\n\r\n"),
}

var targets = []shape{
	ok("path and query", "GET /a/b?c=d&e HTTP/1.1\r\nHost: x\r\n\r\n", `GET /a/b?c=d&e x ""`),
	ok("empty query", "GET /a? HTTP/1.1\r\nHost: x\r\n\r\n", `GET /a? x ""`),
	ok("encoded path", "GET /a%20b%2Fc HTTP/1.1\r\nHost: x\r\n\r\n", `GET /a%20b%2Fc x ""`),
	ok("raw UTF-8", "GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n", `GET /`+"\xc3\xbc"+` x ""`),
	ok("dot segments", "GET /a/../b HTTP/1.1\r\nHost: x\r\n\r\n", `GET /a/../b x ""`),
	ok("two slashes", "GET //a HTTP/1.1\r\nHost: x\r\n\r\n", `GET //a x ""`),
	ok("colon in the path", "GET /a:b@c HTTP/1.1\r\nHost: x\r\n\r\n", `GET /a:b@c x ""`),
	ok("absolute form", "GET http://y/a HTTP/1.1\r\nHost: y\r\n\r\n", `GET http://y/a y ""`),
	ok("absolute form, another host in the header", "GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n", `GET http://y/a y ""`),
	ok("absolute form with a port", "GET http://y:80/a HTTP/1.1\r\nHost: x\r\n\r\n", `GET http://y:80/a y:80 ""`),
	ok("absolute form, capitals", "GET HTTP://y/a HTTP/1.1\r\nHost: y\r\n\r\n", `GET HTTP://y/a y ""`),
	ok("absolute form without a path", "GET http://y HTTP/1.1\r\nHost: y\r\n\r\n", `GET http://y y ""`),
	ok("asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", `OPTIONS * x ""`),
	ok("authority form", "CONNECT y:443 HTTP/1.1\r\nHost: y:443\r\n\r\n", `CONNECT y:443 y:443 ""`),
	bad(400, "asterisk for another method", "GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "authority form for another method", "GET y:443 HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "CONNECT with a path", "CONNECT /a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "CONNECT without a port", "CONNECT y HTTP/1.1\r\nHost: y\r\n\r\n"),
	bad(400, "CONNECT with user information", "CONNECT u@y:443 HTTP/1.1\r\nHost: y\r\n\r\n"),
	bad(400, "no slash", "GET a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "backslash first", "GET \\a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "query only", "GET ?a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "fragment behind a query", "GET /a?b#c HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "NUL in the path", "GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "control character in the path", "GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "DEL in the path", "GET /a\x7fb HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "bare CR in the path", "GET /a\rb HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "control character in the query", "GET /a?\x02 HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "percent without digits", "GET /a% HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "percent with other letters", "GET /a%zz HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "percent with one digit", "GET /a%2 HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "another scheme", "GET ftp://y/a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "scheme without a host", "GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "scheme with nothing", "GET http:// HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "scheme with one slash", "GET http:/y/a HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(400, "user information", "GET http://u:p@y/a HTTP/1.1\r\nHost: y\r\n\r\n"),
	bad(400, "absolute form with a bad port", "GET http://y:99999/a HTTP/1.1\r\nHost: y\r\n\r\n"),
	bad(400, "absolute form with a bad host", "GET http://y^/a HTTP/1.1\r\nHost: y\r\n\r\n"),
	bad(414, "long target", "GET /"+strings.Repeat("a", 17<<10)+" HTTP/1.1\r\nHost: x\r\n\r\n"),
	bad(414, "long method", strings.Repeat("A", 17<<10)+" / HTTP/1.1\r\nHost: x\r\n\r\n"),
	ok("quite long target", "GET /"+strings.Repeat("a", 8<<10)+" HTTP/1.1\r\nHost: x\r\n\r\n", `GET /`+strings.Repeat("a", 8<<10)+` x ""`),
}

var fields = []shape{
	ok("empty value", with("A:"), plain),
	ok("no space behind the colon", with("A:b"), plain),
	ok("tabs around the value", with("A:\t b \t"), plain),
	ok("colons in the value", with("A: b:c: d"), plain),
	ok("value beyond ASCII", with("A: \xc3\xbc\xff"), plain),
	ok("tab inside the value", with("A: b\tc"), plain),
	ok("all token characters", with("!#$%&'*+-.^_`|~09az: b"), plain),
	ok("the same name twice", with("A: b\r\na: c"), plain),
	ok("many fields", with(strings.TrimSuffix(strings.Repeat("A: b\r\n", 200), "\r\n")), plain),
	bad(400, "folded", with("A: b\r\n c")),
	bad(400, "folded with a tab", with("A: b\r\n\tc")),
	bad(400, "first line folded", "GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
	bad(400, "line of a space", with(" ")),
	bad(400, "space before the colon", with("A : b")),
	bad(400, "tab before the colon", with("A\t: b")),
	bad(400, "space inside the name", with("A B: c")),
	bad(400, "no colon", with("AB")),
	bad(400, "empty name", with(": b")),
	bad(400, "only a colon", with(":")),
	bad(400, "NUL in the name", with("A\x00: b")),
	bad(400, "NUL in the value", with("A: b\x00c")),
	bad(400, "bare CR in the value", with("A: b\rc")),
	bad(400, "bare CR before the end", with("A: b\r")),
	bad(400, "CR in the name", with("A\r: b")),
	bad(400, "control character in the value", with("A: b\x01c")),
	bad(400, "escape in the value", with("A: \x1b[0m")),
	bad(400, "backspace in the value", with("A: b\x08")),
	bad(400, "DEL in the value", with("A: b\x7f")),
	bad(400, "vertical tab around the value", with("A: \x0bb")),
	bad(400, "form feed around the value", with("A: b\x0c")),
	bad(400, "name beyond ASCII", with("\xc3\xbc: b")),
	bad(400, "name in quotes", with(`"A": b`)),
	bad(400, "name in brackets", with("[A]: b")),
	bad(400, "name with a slash", with("A/B: c")),
	bad(400, "name with a semicolon", with("A;: c")),
	bad(400, "bare line feed behind a field", with("A: b\nC: d")),
	bad(400, "bare line feed at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n"),
	bad(400, "line feed, CR", "GET / HTTP/1.1\r\nHost: x\n\r\n\r"),
	bad(400, "a length behind a bare line feed", with("A: b\nContent-Length: 5")),
	bad(400, "a coding behind a bare CR", with("A: b\rTransfer-Encoding: chunked")),
	bad(400, "name with a comma", with("A,B: c")),
	bad(431, "too many fields", with(strings.TrimSuffix(strings.Repeat("A: b\r\n", 300), "\r\n"))),
	bad(431, "large head", with("A: "+strings.Repeat("b", 70<<10))),
	bad(431, "large name", with(strings.Repeat("A", 70<<10)+": b")),
}

var hosts = []shape{
	ok("port", hosted("Host: x:80"), `GET / x:80 ""`),
	ok("port without digits", hosted("Host: x:"), `GET / x: ""`),
	ok("IPv4", hosted("Host: 127.0.0.1:80"), `GET / 127.0.0.1:80 ""`),
	ok("IPv6", hosted("Host: [::1]:80"), `GET / [::1]:80 ""`),
	ok("underscore", hosted("Host: a_b"), `GET / a_b ""`),
	ok("capitals", hosted("Host: X.Y"), `GET / X.Y ""`),
	ok("spaces around", hosted("Host:   x  "), plain),
	ok("name in small letters", hosted("host: x"), plain),
	ok("name in capitals", hosted("HOST: x"), plain),
	last("none in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", `GET /  ""`),
	last("one in HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", plain),
	bad(400, "none", "GET / HTTP/1.1\r\n\r\n"),
	bad(400, "none but the target's", "GET http://x/ HTTP/1.1\r\n\r\n"),
	bad(400, "empty", hosted("Host:")),
	bad(400, "two", hosted("Host: x\r\nHost: x")),
	bad(400, "two different", hosted("Host: x\r\nHost: y")),
	bad(400, "two in different letters", hosted("Host: x\r\nhost: y")),
	bad(400, "two in HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
	bad(400, "a list", hosted("Host: x, y")),
	bad(400, "a space inside", hosted("Host: x y")),
	bad(400, "a slash", hosted("Host: x/y")),
	bad(400, "a backslash", hosted(`Host: x\y`)),
	bad(400, "user information in the host", hosted("Host: u@x")),
	bad(400, "a query", hosted("Host: x?y")),
	bad(400, "a fragment in the host", hosted("Host: x#y")),
	bad(400, "a scheme", hosted("Host: http://x")),
	bad(400, "percent", hosted("Host: x%00y")),
	bad(400, "quotes", hosted(`Host: "x"`)),
	bad(400, "raw UTF-8 host", hosted("Host: \xc3\xbc")),
	bad(400, "port of letters", hosted("Host: x:http")),
	bad(400, "port too large", hosted("Host: x:65536")),
	bad(400, "port zero", hosted("Host: x:0")),
	bad(400, "negative port", hosted("Host: x:-1")),
	bad(400, "port with a sign", hosted("Host: x:+80")),
	bad(400, "two ports", hosted("Host: x:80:80")),
	bad(400, "only a port", hosted("Host: :80")),
	bad(400, "IPv6 without brackets", hosted("Host: ::1")),
	bad(400, "bracket not closed", hosted("Host: [::1")),
	bad(400, "bracket of nothing", hosted("Host: []")),
	bad(400, "something behind the bracket", hosted("Host: [::1]x")),
	bad(400, "zone", hosted("Host: [fe80::1%25eth0]")),
	bad(400, "space before the colon of the host", hosted("Host : x")),
}

var lengths = []shape{
	ok("zero", post("Content-Length: 0", ""), empty),
	ok("none given", "POST / HTTP/1.1\r\nHost: x\r\n\r\n", empty),
	ok("a body", post("Content-Length: 5", "hello"), hello),
	ok("a body of GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", `GET / x "hello"`),
	ok("a body of DELETE", "DELETE / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", `DELETE / x "hello"`),
	ok("leading zeros", post("Content-Length: 0005", "hello"), hello),
	ok("spaces around the length", post("Content-Length:  5 ", "hello"), hello),
	ok("a body that looks like a request", post("Content-Length: 26", "GET /b HTTP/1.1\r\nHost: x\r\n"), `POST / x "GET /b HTTP/1.1\r\nHost: x\r\n"`),
	ok("pipelined", post("Content-Length: 5", "hello")+with("A: b"), hello+"\n"+plain),
	last("a body of HTTP/1.0", "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", `POST /  "hello"`),
	bad(400, "empty length", post("Content-Length:", "hello")),
	bad(400, "plus", post("Content-Length: +5", "hello")),
	bad(400, "minus", post("Content-Length: -5", "hello")),
	bad(400, "minus zero", post("Content-Length: -0", "")),
	bad(400, "hexadecimal", post("Content-Length: 0x5", "hello")),
	bad(400, "hexadecimal digits", post("Content-Length: a", "hellohello")),
	bad(400, "fraction", post("Content-Length: 5.0", "hello")),
	bad(400, "exponent", post("Content-Length: 5e0", "hello")),
	bad(400, "underscore in the length", post("Content-Length: 0_5", "hello")),
	bad(400, "letters behind", post("Content-Length: 5x", "hello")),
	bad(400, "space inside the length", post("Content-Length: 1 5", "hello")),
	bad(400, "a list of equal ones", post("Content-Length: 5, 5", "hello")),
	bad(400, "a list of different ones", post("Content-Length: 5, 6", "hello")),
	bad(400, "a list of one", post("Content-Length: 5,", "hello")),
	bad(400, "two equal ones", post("Content-Length: 5\r\nContent-Length: 5", "hello")),
	bad(400, "two different lengths", post("Content-Length: 5\r\nContent-Length: 6", "hello")),
	bad(400, "zero and another", post("Content-Length: 0\r\ncontent-length: 5", "hello")),
	bad(400, "quoted", post(`Content-Length: "5"`, "hello")),
	bad(400, "beyond 63 bits", post("Content-Length: 9223372036854775808", "hello")),
	bad(400, "beyond 64 bits", post("Content-Length: 18446744073709551621", "hello")),
	bad(400, "beyond everything", post("Content-Length: "+strings.Repeat("9", 100), "hello")),
	bad(400, "other digits", post("Content-Length: \xd9\xa5", "hello")),
	bad(400, "NUL behind the length", post("Content-Length: 5\x00", "hello")),
	bad(400, "space before the colon of the length", post("Content-Length : 5", "hello")),
	bad(400, "tab before the colon of the length", post("Content-Length\t: 5", "hello")),
	ok("underscore in the name of the length", post("Content_Length: 5", ""), empty),
}

const hi = "5\r\nhello\r\n0\r\n\r\n"

var codings = []shape{
	ok("chunked", chunks(hi), hello),
	ok("chunked in capitals", post("Transfer-Encoding: CHUNKED", hi), hello),
	ok("name of the coding in small letters", post("transfer-encoding: chunked", hi), hello),
	ok("spaces around the coding", post("Transfer-Encoding:  chunked\t", hi), hello),
	ok("chunked of GET", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+hi, `GET / x "hello"`),
	ok("underscore in the name of the coding", post("Transfer_Encoding: chunked\r\nContent-Length: 5", "hello"), hello),
	bad(400, "length and coding", post("Content-Length: 5\r\nTransfer-Encoding: chunked", hi)),
	bad(400, "coding and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5", hi)),
	bad(400, "coding and length zero", post("Transfer-Encoding: chunked\r\nContent-Length: 0", hi)),
	bad(400, "coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+hi),
	bad(400, "coding twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", hi)),
	bad(501, "coding twice in a list", post("Transfer-Encoding: chunked, chunked", hi)),
	bad(400, "coding and another line", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", hi)),
	bad(501, "another line and coding", post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", hi)),
	bad(501, "identity", post("Transfer-Encoding: identity", "")),
	bad(501, "identity and length", post("Transfer-Encoding: identity\r\nContent-Length: 5", "hello")),
	bad(501, "gzip", post("Transfer-Encoding: gzip", "")),
	bad(501, "gzip, chunked", post("Transfer-Encoding: gzip, chunked", hi)),
	bad(501, "chunked, gzip", post("Transfer-Encoding: chunked, gzip", hi)),
	bad(501, "chunked with a comma", post("Transfer-Encoding: chunked,", hi)),
	bad(400, "comma, chunked", post("Transfer-Encoding: ,chunked", hi)),
	bad(501, "chunked with a parameter", post("Transfer-Encoding: chunked;a=b", hi)),
	bad(501, "xchunked", post("Transfer-Encoding: xchunked", hi)),
	bad(501, "chunkedx", post("Transfer-Encoding: chunkedx", hi)),
	bad(501, "chunk", post("Transfer-Encoding: chunk", hi)),
	bad(501, "chunked in quotes", post(`Transfer-Encoding: "chunked"`, hi)),
	bad(400, "vertical tab before chunked", post("Transfer-Encoding: \x0bchunked", hi)),
	bad(400, "NUL behind chunked", post("Transfer-Encoding: chunked\x00", hi)),
	bad(400, "empty coding", post("Transfer-Encoding:", hi)),
	bad(400, "folded coding", post("Transfer-Encoding:\r\n chunked", hi)),
	bad(400, "space before the colon of the coding", post("Transfer-Encoding : chunked", hi)),
	bad(400, "space before the name of the coding", post("A: b\r\n Transfer-Encoding: chunked", hi)),
}

var chunkings = []shape{
	ok("no chunk", chunks("0\r\n\r\n"), empty),
	ok("two chunks", chunks("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), hello),
	ok("leading zeros of a size", chunks("005\r\nhello\r\n000\r\n\r\n"), hello),
	ok("size in small letters", chunks("a\r\nhellohello\r\n0\r\n\r\n"), `POST / x "hellohello"`),
	ok("size in capitals", chunks("A\r\nhellohello\r\n0\r\n\r\n"), `POST / x "hellohello"`),
	ok("extension", chunks("5;a=b\r\nhello\r\n0\r\n\r\n"), hello),
	ok("extension in quotes", chunks("5;a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n"), hello),
	ok("a chunk that looks like an end", chunks("7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"), `POST / x "\r\n0\r\n\r\n"`),
	ok("trailer", chunks("5\r\nhello\r\n0\r\nA: b\r\n\r\n"), hello+" A=b"),
	ok("two trailers", chunks("0\r\nA: b\r\nC: d\r\n\r\n"), empty+" A=b C=d"),
	ok("declared trailer", post("Transfer-Encoding: chunked\r\nTrailer: A", "0\r\nA: b\r\n\r\n"), empty+" A=b"),
	ok("pipelined behind chunks", chunks(hi)+with("A: b"), hello+"\n"+plain),
	bad(400, "declared trailer that cannot be one", post("Transfer-Encoding: chunked\r\nTrailer: Content-Length", hi)),
	broken("size missing", chunks("\r\nhello\r\n0\r\n\r\n"), empty),
	broken("size of other letters", chunks("g\r\nhello\r\n0\r\n\r\n"), empty),
	broken("size 0x5", chunks("0x5\r\nhello\r\n0\r\n\r\n"), empty),
	broken("size with a sign", chunks("+5\r\nhello\r\n0\r\n\r\n"), empty),
	broken("negative size", chunks("-5\r\nhello\r\n0\r\n\r\n"), empty),
	broken("size with an underscore", chunks("0_5\r\nhello\r\n0\r\n\r\n"), empty),
	broken("space before the size", chunks(" 5\r\nhello\r\n0\r\n\r\n"), empty),
	broken("space behind the size", chunks("5 \r\nhello\r\n0\r\n\r\n"), empty),
	broken("tab behind the size", chunks("5\t\r\nhello\r\n0\r\n\r\n"), empty),
	broken("space before the extension", chunks("5 ;a\r\nhello\r\n0\r\n\r\n"), empty),
	broken("extension without a size", chunks(";a\r\nhello\r\n0\r\n\r\n"), empty),
	broken("size beyond 64 bits", chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"), empty),
	broken("size beyond 63 bits", chunks("8000000000000005\r\nhello\r\n0\r\n\r\n"), empty),
	broken("many zeros", chunks(strings.Repeat("0", 17)+"5\r\nhello\r\n0\r\n\r\n"), empty),
	broken("line feed behind the size", chunks("5\nhello\r\n0\r\n\r\n"), empty),
	broken("CR behind the size", chunks("5\rhello\r\n0\r\n\r\n"), empty),
	broken("line feed in an extension", chunks("5;a\nb\r\nhello\r\n0\r\n\r\n"), empty),
	broken("CR in an extension", chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"), empty),
	broken("NUL in an extension", chunks("5;a\x00\r\nhello\r\n0\r\n\r\n"), empty),
	broken("long extension", chunks("5;"+strings.Repeat("a", 1000)+"\r\nhello\r\n0\r\n\r\n"), empty),
	broken("many extensions", chunks(strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nh\r\n", 100)+"0\r\n\r\n"), `POST / x "`+strings.Repeat("h", 81)+`"`),
	broken("chunk longer than its size", chunks("4\r\nhello\r\n0\r\n\r\n"), `POST / x "hell"`),
	broken("chunk shorter than its size", chunks("6\r\nhello\r\n0\r\n\r\n"), `POST / x "hello\r"`),
	broken("line feed behind a chunk", chunks("5\r\nhello\n0\r\n\r\n"), hello),
	broken("CR behind a chunk", chunks("5\r\nhello\r0\r\n\r\n"), hello),
	broken("nothing behind a chunk", chunks("5\r\nhello0\r\n\r\n"), hello),
	broken("line feed at the end of chunks", chunks("5\r\nhello\r\n0\r\n\n"), hello),
	broken("line feed behind the last size", chunks("5\r\nhello\r\n0\n\r\n"), hello),
	broken("trailer without a colon", chunks("0\r\nA\r\n\r\n"), empty),
	broken("trailer with a space before the colon", chunks("0\r\nA : b\r\n\r\n"), empty),
	broken("folded trailer", chunks("0\r\nA: b\r\n c\r\n\r\n"), empty+" A=b"),
	broken("trailer with NUL", chunks("0\r\nA: b\x00\r\n\r\n"), empty),
	broken("trailer with a bare line feed", chunks("0\r\nA: b\n\r\n"), empty),
	broken("length in the trailer", chunks("0\r\nContent-Length: 5\r\n\r\n"), empty),
	broken("coding in the trailer", chunks("0\r\nTransfer-Encoding: chunked\r\n\r\n"), empty),
	broken("host in the trailer", chunks("0\r\nHost: y\r\n\r\n"), empty),
	broken("large trailer", chunks("0\r\nA: "+strings.Repeat("b", 20<<10)+"\r\n\r\n"), empty),
}

var expectations = []shape{
	bad(417, "something else", post("Expect: 200-ok\r\nContent-Length: 5", "hello")),
	bad(417, "a list of expectations", post("Expect: 100-continue, 100-continue\r\nContent-Length: 5", "hello")),
	bad(417, "empty expectation", post("Expect:\r\nContent-Length: 5", "hello")),
	last("unknown expectation in HTTP/1.0", "POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 5\r\n\r\nhello", `POST /  "hello"`),
	{"expectation with a body", post("Expect: 100-continue\r\nContent-Length: 5", "hello"), 100, hello, true},
	{"expectation in capitals", post("Expect: 100-Continue\r\nContent-Length: 5", "hello"), 100, hello, true},
	ok("expectation without a body", with("Expect: 100-continue"), plain),
}

var connections = []shape{
	last("close", with("Connection: close"), plain),
	last("close in capitals", with("Connection: CLOSE"), plain),
	last("close in a list", with("Connection: a, close ,b"), plain),
	last("close and keep-alive", with("Connection: keep-alive, close"), plain),
	last("close in a second line", with("Connection: keep-alive\r\nConnection: close"), plain),
	ok("keep-alive", with("Connection: keep-alive"), plain),
	ok("a token that begins with close", with("Connection: closed"), plain),
	ok("upgrade that nobody takes", with("Connection: upgrade\r\nUpgrade: websocket"), plain),
	ok("upgrade to HTTP/2", with("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA"), plain),
	ok("HTTP/1.0 with keep-alive", "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", plain),
	last("HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", plain),
	ok("three in a row", with("A: 1")+with("A: 2")+with("A: 3"), plain+"\n"+plain+"\n"+plain),
	{"a good one before a bad one", with("A: b") + with("A : b"), 200, plain, false},
	{"an empty line between two", with("A: b") + "\r\n" + with("A: b"), 200, plain + "\n" + plain, true},
}

// seen is what handlers have seen.
type seen struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (s *seen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.lines, "\n")
	s.lines = nil
	return all
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	line := fmt.Sprintf("%s %s %s %q", r.Method, r.RequestURI, r.Host, body)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range r.Trailer {
			if !yield(name) {
				return
			}
		}
	}) {
		line += " " + name + "=" + strings.Join(r.Trailer[name], ",")
	}
	if err != nil {
		line += " broken"
		w.WriteHeader(400)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

func TestShapesOfRequests(t *testing.T) {
	if len(shapes) < 150 {
		t.Fatalf("there are %d shapes only", len(shapes))
	}
	names := map[string]bool{}
	var s seen
	d := open1(t, Options{}, s.ServeHTTP)
	for _, tt := range shapes {
		if names[tt.name] {
			t.Errorf("two shapes are called %q", tt.name)
		}
		names[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			answer := d.raw(tt.raw + behind)
			want := tt.sees
			if tt.open {
				want += "\n" + behindSeen
			}
			if got := s.take(); got != want {
				t.Errorf("handlers saw\n%.300s\nwant\n%.300s", got, want)
			}
			if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
				t.Errorf("answer is %.300q, want %d", answer, tt.status)
			}
			if n := strings.Count(answer, "Connection: close\r\n"); n != 1 {
				t.Errorf("%d times Connection: close in %.500q", n, answer)
			}
		})
	}
	t.Log(len(shapes), "shapes")
}

// TestShapesInPieces sends every byte by itself: what is read at once must not
// change what is understood.
func TestShapesInPieces(t *testing.T) {
	var s seen
	for _, tt := range shapes {
		if len(tt.raw) > 1000 {
			continue
		}
		l := newPieces(tt.raw + behind)
		srv := New(Options{})
		srv.Serve(l, &s)
		want := tt.sees
		if tt.open {
			want += "\n" + behindSeen
		}
		if got := s.take(); got != want {
			t.Errorf("%s: handlers saw\n%.300s\nwant\n%.300s", tt.name, got, want)
		}
		if !strings.HasPrefix(l.out.String(), fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
			t.Errorf("%s: answer is %.300q", tt.name, l.out.String())
		}
	}
}

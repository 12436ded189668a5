package gateway

import (
	"net/http"
	"slices"
	"strconv"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/wire"
)

// headSize is about how many bytes a request's head had on the wire.
func headSize(r *http.Request) int64 {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(r.Host) + 12
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + 4
		}
	}
	return int64(n)
}

// appendHead appends the head of the request as a service gets it. The framing,
// which depends on the body, comes from frame.
func appendHead(dst []byte, r *http.Request, x *exchange, identity, upgrade string, length int64, expect bool) []byte {
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	if x.path != "" {
		dst = append(dst, x.path...)
	} else { // a question of the gateway's own
		dst = append(dst, r.URL.EscapedPath()...)
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		dst = append(dst, '?')
		dst = append(dst, r.URL.RawQuery...)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, r.Host...)
	dst = append(dst, "\r\n"...)
	var own []rule
	if x.route != nil {
		own = x.route.rules.request
	}
	connection := r.Header["Connection"]
	traced := false
	for name, values := range r.Header {
		if !hop.Request(name) || own != nil && ruled(own, name) || len(connection) > 0 && hop.Nominated(connection, name) {
			continue
		}
		if hop.Same(name, "tracestate") {
			traced = true
			continue
		}
		for _, v := range values {
			dst = hop.AppendField(dst, name, v)
		}
	}
	if hop.Nominated(r.Header["Te"], "trailers") && upgrade == "" {
		dst = append(dst, "Te: trailers\r\nConnection: te\r\n"...)
	}
	if upgrade != "" {
		dst = hop.AppendField(dst, "Upgrade", upgrade)
		dst = append(dst, "Connection: Upgrade\r\n"...)
	}
	dst = append(dst, "X-Forwarded-For: "...)
	dst = x.origin.AppendFor(dst)
	dst = append(dst, "\r\n"...)
	dst = hop.AppendField(dst, "X-Forwarded-Proto", x.origin.Scheme)
	dst = hop.AppendField(dst, "X-Forwarded-Host", x.origin.Host)
	dst = append(dst, "Forwarded: "...)
	dst = x.origin.AppendForwarded(dst)
	dst = append(dst, "\r\n"...)
	if x.prefix != "" {
		dst = hop.AppendField(dst, "X-Forwarded-Prefix", x.prefix)
	}
	if x.route != nil && (x.prefix != "" || x.route.rewrite != nil) {
		dst = hop.AppendField(dst, "X-Original-Uri", r.URL.RequestURI())
	}
	if x.holder != "" {
		dst = hop.AppendField(dst, wire.HeaderClient, x.holder)
	}
	for i := range x.told {
		dst = hop.AppendField(dst, x.told[i].Name, x.told[i].Value)
	}
	for i := range own {
		if own[i].value != "" {
			dst = hop.AppendField(dst, own[i].name, own[i].value)
		}
	}
	dst = hop.AppendField(dst, wire.HeaderRequestID, x.id)
	dst = hop.AppendField(dst, wire.HeaderTrace, x.trace.String())
	if traced && x.continued {
		for _, v := range r.Header["Tracestate"] {
			dst = hop.AppendField(dst, wire.HeaderState, v)
		}
	}
	dst = append(dst, wire.HeaderDeadline...)
	dst = append(dst, ": "...)
	dst = strconv.AppendInt(dst, x.deadline.UnixMilli(), 10)
	dst = append(dst, "\r\n"...)
	if identity != "" {
		dst = hop.AppendField(dst, wire.HeaderIdentity, identity)
	}
	switch {
	case length > 0 || length == 0 && (r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch):
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, length, 10)
		dst = append(dst, "\r\n"...)
	case length < 0:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if x.trailerPasses(name) {
				dst = hop.AppendField(dst, "Trailer", name)
			}
		}
	}
	if expect {
		dst = append(dst, "Expect: 100-continue\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// trailerPasses says whether a client's trailer goes on to the service: not what
// would be taken away from its headers.
func (x *exchange) trailerPasses(name string) bool {
	if !hop.Trailer(name) || x.route != nil && ruled(x.route.rules.request, name) {
		return false
	}
	if x.snap == nil || x.snap.admission == nil {
		return true
	}
	return !slices.ContainsFunc(x.snap.admission.authority.inside, func(s string) bool { return hop.Same(name, s) })
}

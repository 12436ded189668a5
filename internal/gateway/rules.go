package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"slices"

	"fairlead/internal/gateway/hop"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// rules say which headers are set or removed on the way to a service and back.
type rules struct{ request, answer []rule }

// rule sets a header, or removes it if the value is empty.
type rule struct{ name, plain, value string }

// Names that rules cannot have, in small letters: what frames a message, and what
// the gateway itself vouches for.
var (
	framing = []string{
		"connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
		"transfer-encoding", "upgrade",
	}
	vouchedRequest = []string{
		"host", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-prefix",
		"x-original-uri", "x-real-ip", "x-request-id", "traceparent", "tracestate",
	}
	vouchedAnswer = []string{"server", "x-request-id"}
)

// newRules compiles the rules of the gateway with those of a route, which win.
func newRules(gateway, route system.HeaderRules) (rules, error) {
	request, err := mergeRules(gateway.Request, route.Request, vouchedRequest)
	if err != nil {
		return rules{}, err
	}
	answer, err := mergeRules(gateway.Answer, route.Answer, vouchedAnswer)
	return rules{request, answer}, err
}

func mergeRules(gateway, route map[string]string, vouched []string) ([]rule, error) {
	if len(gateway)+len(route) == 0 {
		return nil, nil
	}
	merged := map[string]string{}
	for _, given := range []map[string]string{gateway, route} {
		for name, value := range given {
			merged[textproto.CanonicalMIMEHeaderKey(name)] = value
		}
	}
	var out []rule
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		same := func(s string) bool { return hop.Same(name, s) }
		switch {
		case hop.Canonical(name) == "" || !hop.CleanValue(merged[name]):
			return nil, fmt.Errorf("the header %q is malformed", name)
		case wire.ForeignHeader(name), slices.ContainsFunc(framing, same), slices.ContainsFunc(vouched, same):
			return nil, fmt.Errorf("the header %s is the gateway's to set", name)
		}
		out = append(out, rule{name, hop.Plain(name), merged[name]})
	}
	return out, nil
}

// ruled reports whether a rule decides about a header, in whatever spelling.
func ruled(list []rule, name string) bool {
	for i := range list {
		if hop.Same(name, list[i].plain) {
			return true
		}
	}
	return false
}

// apply changes the head of an answer.
func (rs *rules) apply(h http.Header) {
	for i := range rs.answer {
		if r := &rs.answer[i]; r.value == "" {
			delete(h, r.name)
		} else {
			h[r.name] = []string{r.value}
		}
	}
}

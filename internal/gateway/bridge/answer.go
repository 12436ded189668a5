package bridge

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

// publicBytes is the longest text of a service's error.
const publicBytes = 1 << 10

// Answer is what a service has said.
type Answer struct {
	// Status is what a client is told: 200 to 299, or of a fault what the route makes
	// of it, 400 to 599.
	Status int
	Media  string // of Data, as the service says; "" for JSON
	Data   []byte // it belongs to the caller

	Fault   bool   // the service says that it cannot do what was asked; there is no Data
	Message string // of a fault: the service's text, bounded and without control characters
}

// reply is what came for a call.
type reply struct {
	msg    *nats.Msg  // the last message
	stream nestStream // of a NestJS service
	fault  []byte     // what its handler threw, nil for none
}

func (r *reply) answer(to *Route) Answer {
	if to.nest {
		return r.nest(to)
	}
	return raw(r.msg, to)
}

// raw reads the reply of a service of format raw.
func raw(m *nats.Msg, to *Route) Answer {
	if text, code := m.Header.Get(wire.HeaderError), m.Header.Get(wire.HeaderErrorCode); text != "" || code != "" {
		return to.fault(number(code), text)
	}
	status := number(m.Header.Get(wire.HeaderStatus))
	switch {
	case status >= 200 && status <= 299:
	case len(m.Data) == 0:
		status = http.StatusNoContent
	default:
		status = http.StatusOK
	}
	return Answer{Status: status, Media: m.Header.Get(wire.HeaderType), Data: m.Data}
}

// nest reads the replies of a NestJS service: one value as it is, several as a list,
// none as 204.
func (r *reply) nest(to *Route) Answer {
	if r.fault != nil {
		return to.fault(readNestError(r.fault))
	}
	switch len(r.stream.values) {
	case 0:
		return Answer{Status: http.StatusNoContent}
	case 1:
		return Answer{Status: http.StatusOK, Data: r.stream.values[0]}
	}
	return Answer{Status: http.StatusOK, Data: r.stream.appendTo(make([]byte, 0, r.stream.size()))}
}

// fault is a service's error, with its own status, 0 for none.
func (r *Route) fault(own int, message string) Answer {
	return Answer{Fault: true, Status: r.statusOf(own, message), Message: clip(message)}
}

// number reads a status, 0 for none.
func number(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// clip bounds a service's text and takes control characters out of it.
func clip(s string) string {
	if len(s) > publicBytes {
		s = s[:publicBytes] + "..."
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

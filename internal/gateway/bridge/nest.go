package bridge

import (
	"encoding/json"
	"strings"

	"fairlead/internal/wire"
)

const (
	streamValues = 10_000  // most values of a stream
	streamBytes  = 8 << 20 // largest stream, as it is answered
	maxStatusErr = 599
)

// nestStream collects the replies to one sending of a request.
type nestStream struct {
	values []json.RawMessage
	bytes  int
}

// add takes one reply. done is true after the last one; fault is what the handler
// threw, nil for none.
func (s *nestStream) add(b []byte) (done bool, fault json.RawMessage, err error) {
	r, err := wire.ParseNestReply(b)
	if err != nil {
		return false, nil, ErrForeign
	}
	if r.Err != nil {
		return true, r.Err, nil
	}
	if r.HasResponse {
		s.bytes += len(r.Response) + 1
		if len(s.values) >= streamValues || s.bytes > streamBytes {
			return false, nil, ErrTooLong
		}
		s.values = append(s.values, r.Response)
	}
	return r.Disposed, nil, nil
}

// size returns the length of the body that appendTo appends.
func (s *nestStream) size() int {
	if len(s.values) == 1 {
		return len(s.values[0])
	}
	return s.bytes + 1
}

// appendTo appends what the client gets: a single value as it is, several as a list.
func (s *nestStream) appendTo(dst []byte) []byte {
	if len(s.values) == 1 {
		return append(dst, s.values[0]...)
	}
	dst = append(dst, '[')
	for i, v := range s.values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, v...)
	}
	return append(dst, ']')
}

// readNestError returns the status, 0 for none, and the text of what a handler
// threw: a string, or an object with message (a string, or a list of them as the
// validation pipe makes it) and statusCode or status where that is a number from
// 400 to 599.
func readNestError(fault json.RawMessage) (status int, message string) {
	var text string
	if json.Unmarshal(fault, &text) == nil {
		return 0, text
	}
	var o map[string]json.RawMessage
	if json.Unmarshal(fault, &o) != nil {
		return 0, ""
	}
	for _, name := range []string{"statusCode", "status"} {
		var n float64
		if raw, ok := o[name]; ok && json.Unmarshal(raw, &n) == nil && errorStatus(int(n)) && n == float64(int(n)) {
			status = int(n)
			break
		}
	}
	var list []string
	switch {
	case json.Unmarshal(o["message"], &message) == nil:
	case json.Unmarshal(o["message"], &list) == nil:
		message = strings.Join(list, "; ")
	}
	return status, message
}

// errorStatus reports whether n is the status of an error.
func errorStatus(n int) bool { return n >= 400 && n <= maxStatusErr }

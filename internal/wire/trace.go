package wire

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"time"
)

// Trace is a place in a trace, as in the traceparent header of W3C Trace Context.
// The zero Trace is invalid.
type Trace struct {
	ID    [16]byte // of the whole trace
	Span  [8]byte  // of the caller
	Flags byte     // bit 0: sampled, bit 1: the ID is random
}

const (
	traceLength = 55   // of version 00: 2-32-16-2 hex digits and three dashes
	knownFlags  = 0x03 // unknown flags are not passed on, as the specification asks
)

// ParseTrace reads a traceparent header. It reports false for what W3C Trace
// Context says to ignore: capital digits, zero ids, version ff, a version 00 of
// another length. Of later versions it reads the fields that version 00 has.
func ParseTrace(traceparent string) (Trace, bool) {
	s := traceparent
	if len(s) < traceLength || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Trace{}, false
	}
	var version, flags [1]byte
	var t Trace
	if !lowerHex(version[:], s[0:2]) || !lowerHex(t.ID[:], s[3:35]) || !lowerHex(t.Span[:], s[36:52]) || !lowerHex(flags[:], s[53:55]) {
		return Trace{}, false
	}
	switch {
	case version[0] == 0xff,
		version[0] == 0 && len(s) != traceLength,
		len(s) > traceLength && s[traceLength] != '-',
		t.ID == [16]byte{},
		t.Span == [8]byte{}:
		return Trace{}, false
	}
	t.Flags = flags[0] & knownFlags
	return t, true
}

func lowerHex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := digit(s[2*i]), digit(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// NewTrace returns the beginning of a new, sampled trace.
func NewTrace() Trace {
	t := Trace{Flags: knownFlags}
	for t.ID == [16]byte{} {
		binary.BigEndian.PutUint64(t.ID[:8], rand.Uint64())
		binary.BigEndian.PutUint64(t.ID[8:], rand.Uint64())
	}
	t.Span = newSpan()
	return t
}

// Child returns the same trace with a new span.
func (t Trace) Child() Trace {
	t.Span = newSpan()
	return t
}

func newSpan() (s [8]byte) {
	for s == [8]byte{} {
		binary.BigEndian.PutUint64(s[:], rand.Uint64())
	}
	return s
}

// String returns t as a traceparent header of version 00.
func (t Trace) String() string {
	b := make([]byte, 0, traceLength)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.ID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, t.Span[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{t.Flags})
	return string(b)
}

// TraceID returns the trace's id as 32 hexadecimal digits, for logs.
func (t Trace) TraceID() string { return hex.EncodeToString(t.ID[:]) }

// SpanID returns the span's id as 16 hexadecimal digits, for logs.
func (t Trace) SpanID() string { return hex.EncodeToString(t.Span[:]) }

const (
	requestIDLength   = 22
	requestIDAlphabet = "0123456789abcdefghijkmnpqrstuvwx" // 32 characters, without l and o
)

// NewRequestID returns a new request id of 22 characters (110 random bits). It is
// unique, not secret.
func NewRequestID() string {
	var b [requestIDLength]byte
	var bits uint64
	for i := range b {
		if i%12 == 0 {
			bits = rand.Uint64()
		}
		b[i] = requestIDAlphabet[bits&31]
		bits >>= 5
	}
	return string(b[:])
}

// ValidRequestID reports whether a request id that came from outside may be kept:
// 8 to 64 of A-Z, a-z, 0-9, dot, underscore and dash.
func ValidRequestID(s string) bool {
	if len(s) < 8 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// FormatDeadline returns t as the value of [HeaderDeadline].
func FormatDeadline(t time.Time) string {
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// ParseDeadline reads the value of [HeaderDeadline]. It reports false for what is
// not a positive number of milliseconds that a time can hold.
func ParseDeadline(s string) (time.Time, bool) {
	if s == "" || len(s) > 15 { // 15 digits reach the year 33658
		return time.Time{}, false
	}
	var ms int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return time.Time{}, false
		}
		ms = ms*10 + int64(s[i]-'0')
	}
	if ms == 0 {
		return time.Time{}, false
	}
	return time.UnixMilli(ms), true
}

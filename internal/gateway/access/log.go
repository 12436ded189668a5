// Package access writes one JSON line per request.
//
// Requests never wait for it: lines go to a buffer that one goroutine writes. When
// the disk cannot follow, lines are dropped, and their number is the field dropped
// of the next line. Rotating and naming files is not its business.
package access

import (
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"fairlead/internal/wire"
)

const (
	flushAfter = 200 * time.Millisecond // a line is written after this time at the latest
	wakeAt     = 64 << 10               // bytes that are written without waiting for it
	mostBytes  = 1 << 20                // bytes that wait for a slow disk before lines are dropped
)

// Entry is what a line says of one request.
type Entry struct {
	Start     time.Time
	RequestID string
	TraceID   [16]byte
	Client    netip.Addr
	Method    string
	Host      string
	Path      string // without the query, which may hold secrets
	Route     string // "" if no route took it
	Proto     string // such as HTTP/2.0
	Status    int
	Bytes     int64  // of the answer's body
	Service   string // "" for none
	Instance  string // that answered, or was tried last; "" for none
	User      string // "" for nobody
	Holder    string // of the client's certificate, "" for none
	Sent      int    // times the request was sent to an instance; told from 2 on
	Error     string // what went wrong inside, "" for nothing
}

// Log writes entries. Make it with [New]; Record and Close are safe for concurrent
// use.
type Log struct {
	out   io.Writer
	log   *slog.Logger
	begun chan struct{} // there is a line
	wake  chan struct{} // there are many
	quit  chan struct{}
	once  sync.Once

	mu      sync.Mutex // guards the fields below
	buf     []byte
	dropped uint64
}

// New makes a log to out. That out cannot be written is told to log, once until it
// can be again.
func New(out io.Writer, log *slog.Logger) *Log {
	return &Log{out: out, log: log, begun: make(chan struct{}, 1), wake: make(chan struct{}, 1), quit: make(chan struct{})}
}

// Run writes until Close, then once more.
func (l *Log) Run() {
	var spare []byte
	broken := false
	for quit := false; !quit; {
		quit = l.gather()
		l.mu.Lock()
		full := l.buf
		l.buf = spare[:0]
		l.mu.Unlock()
		if len(full) > 0 {
			_, err := l.out.Write(full)
			if err != nil && !broken {
				l.log.Error("cannot write the access log", wire.KeyError, err)
			}
			broken = err != nil
		}
		spare = full
	}
}

// gather returns when it is time to write: a while after the first line, or when there
// are many. It reports whether it is for the last time.
func (l *Log) gather() (last bool) {
	select {
	case <-l.begun:
	case <-l.quit:
		return true
	}
	timer := time.NewTimer(flushAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.wake:
	case <-l.quit:
		return true
	}
	return false
}

// Close makes Run write what is left and return.
func (l *Log) Close() { l.once.Do(func() { close(l.quit) }) }

// Record adds a line.
func (l *Log) Record(e *Entry) {
	now := time.Now()
	l.mu.Lock()
	if len(l.buf) >= mostBytes {
		l.dropped++
		l.mu.Unlock()
		return
	}
	first := len(l.buf) == 0
	l.buf = appendLine(l.buf, e, now, l.dropped)
	l.dropped = 0
	full := len(l.buf) >= wakeAt
	l.mu.Unlock()
	if first {
		tell(l.begun)
	}
	if full {
		tell(l.wake)
	}
}

// tell does not wait: what was told before, and not heard yet, is enough.
func tell(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func appendLine(b []byte, e *Entry, now time.Time, dropped uint64) []byte {
	b = append(b, `{"time":"`...)
	b = e.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	b = appendText(b, wire.KeyRequestID, e.RequestID)
	b = append(b, `,"trace_id":"`...)
	b = appendHex(b, e.TraceID[:])
	b = append(b, '"')
	b = append(b, `,"client":"`...)
	if e.Client.IsValid() {
		b = e.Client.AppendTo(b)
	}
	b = append(b, '"')
	b = appendText(b, "method", e.Method)
	b = appendText(b, "host", e.Host)
	b = appendText(b, "path", e.Path)
	b = appendText(b, "proto", e.Proto)
	if e.Route != "" {
		b = appendText(b, wire.KeyRoute, e.Route)
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.Status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, e.Bytes, 10)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(now.Sub(e.Start).Microseconds())/1000, 'f', 3, 64)
	if e.Service != "" {
		b = appendText(b, wire.KeyService, e.Service)
	}
	if e.Instance != "" {
		b = appendText(b, wire.KeyInstance, e.Instance)
	}
	if e.User != "" {
		b = appendText(b, "user", e.User)
	}
	if e.Holder != "" {
		b = appendText(b, "certificate", e.Holder)
	}
	if e.Sent > 1 {
		b = append(b, `,"sent":`...)
		b = strconv.AppendInt(b, int64(e.Sent), 10)
	}
	if e.Error != "" {
		b = appendText(b, wire.KeyError, e.Error)
	}
	if dropped > 0 {
		b = append(b, `,"dropped":`...)
		b = strconv.AppendUint(b, dropped, 10)
	}
	return append(b, "}\n"...)
}

func appendHex(b, raw []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range raw {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// appendText appends a member whose value is a string. The key needs no escapes.
func appendText(b []byte, key, value string) []byte {
	b = append(b, `,"`...)
	b = append(b, key...)
	b = append(b, `":"`...)
	start := 0
	for i := 0; i < len(value); {
		c := value[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, value[start:i]...)
			b = append(b, `\u00`...)
			b = appendHex(b, []byte{c})
			i++
			start = i
			continue
		}
		char, size := utf8.DecodeRuneInString(value[i:])
		if char == utf8.RuneError && size == 1 {
			b = append(b, value[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + 1
		}
		i += size
	}
	b = append(b, value[start:]...)
	return append(b, '"')
}

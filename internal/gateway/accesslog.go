package gateway

import (
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"fairlead/internal/wire"
)

const (
	accessFlush = 200 * time.Millisecond // a line is written after this time at the latest
	accessWake  = 64 << 10               // bytes that are written without waiting for it
	accessMost  = 1 << 20                // bytes that wait for a slow disk before lines are dropped
)

// accessLog writes one JSON line per request. Requests never wait for it: lines go
// to a buffer that one goroutine writes. When the disk cannot follow, lines are
// dropped, and their number is the field dropped of the next line.
type accessLog struct {
	out  io.Writer
	log  *slog.Logger
	wake chan struct{}
	quit chan struct{}
	once sync.Once

	mu      sync.Mutex // guards the fields below
	buf     []byte
	dropped uint64
}

func newAccessLog(out io.Writer, log *slog.Logger) *accessLog {
	return &accessLog{out: out, log: log, wake: make(chan struct{}, 1), quit: make(chan struct{})}
}

// run writes until close, then once more.
func (l *accessLog) run() {
	tick := time.NewTicker(accessFlush)
	defer tick.Stop()
	var spare []byte
	broken := false
	for quit := false; !quit; {
		select {
		case <-tick.C:
		case <-l.wake:
		case <-l.quit:
			quit = true
		}
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

// close writes what is left; run returns after that.
func (l *accessLog) close() { l.once.Do(func() { close(l.quit) }) }

// record adds the line of a request.
func (l *accessLog) record(x *exchange, r *http.Request) {
	now := time.Now()
	l.mu.Lock()
	if len(l.buf) >= accessMost {
		l.dropped++
		l.mu.Unlock()
		return
	}
	l.buf = appendLine(l.buf, x, r, now, l.dropped)
	l.dropped = 0
	full := len(l.buf) >= accessWake
	l.mu.Unlock()
	if full {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// appendLine appends one request. The query is left out: it may hold secrets.
func appendLine(b []byte, x *exchange, r *http.Request, now time.Time, dropped uint64) []byte {
	b = append(b, `{"time":"`...)
	b = x.start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	b = appendText(b, wire.KeyRequestID, x.id)
	b = append(b, `,"trace_id":"`...)
	b = appendHex(b, x.trace.ID[:])
	b = append(b, '"')
	b = appendText(b, "client", clientAddr(r))
	b = appendText(b, "method", r.Method)
	b = appendText(b, "host", r.Host)
	b = appendText(b, "path", r.URL.EscapedPath())
	if x.route != nil {
		b = appendText(b, wire.KeyRoute, x.route.def.Key)
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(x.answer.status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, x.answer.bytes, 10)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(now.Sub(x.start).Microseconds())/1000, 'f', 3, 64)
	if x.route != nil && x.route.service != "" {
		b = appendText(b, wire.KeyService, x.route.service)
	}
	if x.instance != "" {
		b = appendText(b, wire.KeyInstance, x.instance)
	}
	if x.user != nil {
		b = appendText(b, "user", x.user.Subject)
	}
	if x.sent > 1 {
		b = append(b, `,"sent":`...)
		b = strconv.AppendInt(b, int64(x.sent), 10)
	}
	if x.cause != "" {
		b = appendText(b, wire.KeyError, x.cause)
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

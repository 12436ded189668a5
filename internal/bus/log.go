package bus

import (
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"fairlead/internal/wire"
)

// serverLog carries the server's log into ours. It implements server.Logger.
//
// The server's notices tell the steps of its start and every reload of its
// options; they are Debug here, because what an operator wants to know of them is
// logged by those who cause it. An error about one client (its line names the
// connection) is that client's, so it is Warn: nobody has to mend the bus.
type serverLog struct {
	log *slog.Logger
	// reloading is called while the server reloads its users, before it looks at
	// the connections.
	reloading func()
	// problem is told every warning and error, with locks of the server held.
	problem func(line string)

	mu    sync.Mutex // guards fatal and seen
	fatal string     // the first fatal message: the reason why a start failed
	seen  map[string]time.Time
}

const (
	// quiet is how long the same message is not logged again.
	quiet = time.Minute
	// remembered bounds the messages that quiet is kept for.
	remembered = 256
)

// ofClient matches the head of a line about one connection, which differs with
// each connection and tells nothing about the cause.
var ofClient = regexp.MustCompile(`^\S+ - \w+:\d+ - (?:"[^"]*" - )*`)

// plaintextWarning is the server's advice to hash passwords. Ours are 256 random
// bits that live in memory only and as long as an instance: there is nothing
// that a slow hash would protect.
const plaintextWarning = "Plaintext passwords detected, use nkeys or bcrypt"

// reloadNotice is what the server says when it has taken up the new users.
const reloadNotice = "Reloaded: authorization users"

func newServerLog(log *slog.Logger, reloading func(), problem func(string)) *serverLog {
	return &serverLog{log: log, reloading: reloading, problem: problem, seen: make(map[string]time.Time)}
}

func (l *serverLog) Noticef(format string, v ...any) {
	if format == reloadNotice {
		l.reloading()
	}
	l.log.Debug("bus server notice", slog.String(wire.KeyReason, fmt.Sprintf(format, v...)))
}

func (l *serverLog) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.problem(text)
	if text == plaintextWarning || !l.fresh(text) {
		return
	}
	l.log.Warn("bus server warns", slog.String(wire.KeyReason, text))
}

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.problem(text)
	if head := ofClient.FindString(text); head != "" {
		if l.fresh(text[len(head):]) {
			l.log.Warn("bus server refuses a client", slog.String(wire.KeyReason, text))
		}
		return
	}
	if l.fresh(text) {
		l.log.Error("bus server fails", slog.String(wire.KeyReason, text))
	}
}

// Fatalf must not end the process: the server goes on and its start fails.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if l.fatal == "" {
		l.fatal = text
	}
	l.mu.Unlock()
	l.log.Error("bus server fails", slog.String(wire.KeyReason, text))
}

func (l *serverLog) Debugf(format string, v ...any) {}

func (l *serverLog) Tracef(format string, v ...any) {}

// reason returns the first fatal message, "" if there was none.
func (l *serverLog) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

// fresh reports whether the message was not logged within the quiet time.
func (l *serverLog) fresh(text string) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.seen[text]; ok && now.Sub(last) < quiet {
		return false
	}
	if len(l.seen) >= remembered {
		for k, t := range l.seen {
			if now.Sub(t) >= quiet {
				delete(l.seen, k)
			}
		}
		if len(l.seen) >= remembered {
			clear(l.seen)
		}
	}
	l.seen[text] = now
	return true
}

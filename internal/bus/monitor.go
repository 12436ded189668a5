package bus

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// monitors are the pages of NATS's monitoring port that [Bus.Monitor] has.
// https://docs.nats.io/running-a-nats-service/nats_admin/monitoring
var monitors = map[string]func(*server.Server, http.ResponseWriter, *http.Request){
	"/varz":    (*server.Server).HandleVarz,
	"/connz":   (*server.Server).HandleConnz,
	"/routez":  (*server.Server).HandleRoutez,
	"/subsz":   (*server.Server).HandleSubsz,
	"/jsz":     (*server.Server).HandleJsz,
	"/leafz":   (*server.Server).HandleLeafz,
	"/healthz": (*server.Server).HandleHealthz,
}

// Monitor answers what NATS's monitoring port does, with the server's own handlers
// and so with the same JSON and the same options in the query, but without a port:
// /varz, /connz, /routez, /leafz, /subsz, /jsz and /healthz. It answers 503 while the bus is
// suspended. It shows who is connected and the subjects they use, no passwords, and
// does not ask who wants to know: that is the caller's to do.
func (b *Bus) Monitor() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		show := monitors[strings.TrimSuffix(r.URL.Path, "/")]
		s := b.server.Load()
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "the bus can only be looked at", http.StatusMethodNotAllowed)
		case r.URL.Path == "/" || r.URL.Path == "":
			h.Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintln(w, "varz connz routez leafz subsz jsz healthz") // a client that is gone is nothing to report
		case show == nil:
			http.NotFound(w, r)
		case s == nil:
			h.Set("Retry-After", "1")
			http.Error(w, "the bus is being handed over", http.StatusServiceUnavailable)
		default:
			show(s, &sameOrigin{w}, r)
		}
	})
}

// sameOrigin is an answer that pages of other origins may not read: the server's
// handlers would let all of them.
type sameOrigin struct{ http.ResponseWriter }

func (w *sameOrigin) WriteHeader(status int) {
	w.Header().Del("Access-Control-Allow-Origin")
	w.ResponseWriter.WriteHeader(status)
}

// Load is how much the bus has to do.
type Load struct {
	Connections, Subscriptions int
	// What clients sent, and what was sent to them, since the bus was opened or
	// resumed.
	ReceivedMessages, SentMessages, ReceivedBytes, SentBytes int64
	SlowConsumers                                            int64 // connections that were cut because they did not read
	StoreBytes                                               uint64
	Since                                                    time.Time
}

// Load returns how much the bus has to do. It returns [ErrSuspended] between
// [Bus.Suspend] and [Bus.Resume].
func (b *Bus) Load() (Load, error) {
	s := b.server.Load()
	if s == nil {
		return Load{}, ErrSuspended
	}
	v, err := s.Varz(nil)
	if err != nil {
		return Load{}, fmt.Errorf("look at bus: %w", err)
	}
	l := Load{
		Connections: v.Connections, Subscriptions: int(v.Subscriptions),
		ReceivedMessages: v.InMsgs, SentMessages: v.OutMsgs, ReceivedBytes: v.InBytes, SentBytes: v.OutBytes,
		SlowConsumers: v.SlowConsumers, Since: v.Start,
	}
	if v.JetStream.Stats != nil {
		l.StoreBytes = v.JetStream.Stats.Store
	}
	return l, nil
}

package live

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fairlead/internal/gateway/websocket"
)

const (
	// writeTime is how long a write to a WebSocket may take until it is cut.
	writeTime = 10 * time.Second
	// closeTime is how long a client has to answer a close frame.
	closeTime = 2 * time.Second
	// mostSilent is how many pings a client may leave without an answer.
	mostSilent = 2
	// mostJoined is how much is copied together to be written at once.
	mostJoined = 64 << 10
)

// joined are buffers for several frames.
var joined = sync.Pool{New: func() any { b := make([]byte, 0, mostJoined); return &b }}

// WebSocket serves the session over a connection that speaks WebSocket from its next
// byte on, but for what was read ahead of the client. It returns when that is over, and
// closes it. ending is closed when the connection shall end.
func (s *Session) WebSocket(conn net.Conn, ahead []byte, ending <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &socket{conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		w.listen(ahead)
	}()
	end, err := s.run(ctx, ending, w)
	switch {
	case end != nil:
		w.close(end.Status, end.Reason)
	case err != nil && ctx.Err() == nil:
		w.close(websocket.GoingAway, endLeaving.Reason)
	}
	if end != nil || ctx.Err() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(closeTime)) // fails only on a closed connection
		<-done
	}
	_ = conn.Close() // whatever it says, the connection is over
	<-done
}

// socket is a WebSocket as a sink.
type socket struct {
	conn   net.Conn
	mu     sync.Mutex   // guards until
	until  time.Time    // the write deadline
	silent atomic.Int32 // pings since the client was heard last
	closed atomic.Bool  // nothing may be written any more
}

// put writes events as frames.
func (w *socket) put(events []*event) error {
	if len(events) == 1 {
		return w.write(events[0].webSocket())
	}
	buf := joined.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer func() {
		if cap(*buf) <= mostJoined {
			joined.Put(buf)
		}
	}()
	b := (*buf)[:0]
	for i, e := range events {
		b = append(b, e.webSocket()...)
		if i < len(events)-1 && len(b)+len(events[i+1].webSocket()) <= mostJoined {
			continue
		}
		if err := w.write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	*buf = b
	return nil
}

// beat tells the client, for a page that cannot see pings, and asks it for a sign.
func (w *socket) beat(e *event) error {
	if w.silent.Add(1) > mostSilent {
		return errGone
	}
	return w.write(websocket.AppendFrame(e.webSocket(), websocket.OpPing, nil))
}

// write writes whole frames. The writer and the listener may do so beside each other.
func (w *socket) write(b []byte) error {
	w.mu.Lock()
	if now := time.Now(); w.until.Sub(now) < writeTime-time.Second && !w.closed.Load() {
		w.until = now.Add(writeTime)
		_ = w.conn.SetWriteDeadline(w.until) // fails only on a closed connection, as the write will
	}
	w.mu.Unlock()
	_, err := w.conn.Write(b)
	if err != nil {
		w.closed.Store(true) // a close frame now would stand in the middle of another
	}
	return err
}

// listen reads what the client sends until it closes, or is gone.
func (w *socket) listen(ahead []byte) {
	var r io.Reader = w.conn
	if len(ahead) > 0 {
		r = &replay{ahead, w.conn}
	}
	in := websocket.NewReader(r)
	seen := func() { w.silent.Store(0) }
	for {
		op, payload, err := in.Next(seen)
		switch {
		case err == websocket.ErrProtocol: //nolint:errorlint // it comes as it is
			w.close(websocket.ProtocolError, "")
			return
		case err == websocket.ErrTooBig: //nolint:errorlint // as above
			w.close(websocket.TooBig, "")
			return
		case err != nil:
			return
		case op == websocket.OpPing:
			if err := w.write(websocket.AppendFrame(nil, websocket.OpPong, payload)); err != nil {
				return
			}
		case op == websocket.OpClose:
			status := uint16(1000)
			if len(payload) >= 2 {
				status = binary.BigEndian.Uint16(payload)
			}
			w.close(status, "")
			return
		}
	}
}

// close sends the only close frame.
func (w *socket) close(status uint16, reason string) {
	if w.closed.CompareAndSwap(false, true) {
		w.mu.Lock()
		_ = w.conn.SetWriteDeadline(time.Now().Add(closeTime)) // fails only on a closed connection
		w.mu.Unlock()
		_, _ = w.conn.Write(websocket.AppendClose(nil, status, reason, false))
	}
}

// replay is what was read ahead, then the rest.
type replay struct {
	first []byte
	rest  io.Reader
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.rest.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// Events serves the session as server-sent events, until ctx ends, ending is closed or
// nothing can be written. flush is called when everything shall be on its way.
func (s *Session) Events(ctx context.Context, w io.Writer, flush func() error, ending <-chan struct{}) error {
	out := &stream{w, flush}
	if _, err := io.WriteString(w, "retry: 1000\n\n"); err != nil {
		return err
	}
	end, err := s.run(ctx, ending, out)
	if end == nil {
		return err
	}
	return out.put([]*event{{kind: "end", body: []byte(`"code":"` + end.Code + `"`)}})
}

// stream is server-sent events as a sink.
type stream struct {
	w     io.Writer
	flush func() error
}

// put writes events.
func (s *stream) put(events []*event) error {
	for _, e := range events {
		if _, err := s.w.Write(e.serverSent()); err != nil {
			return err
		}
	}
	return s.flush()
}

// beat writes the heartbeat; a connection that is gone is found out by others.
func (s *stream) beat(e *event) error { return s.put([]*event{e}) }

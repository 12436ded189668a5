package live

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead/internal/gateway/websocket"
)

// far is the client's end of a WebSocket.
type far struct {
	net.Conn
	r    *bufio.Reader
	done chan struct{}

	pongs int
}

// connect lets a client in over a pipe.
func connect(t *testing.T, room *Room, ahead []byte, ending <-chan struct{}) *far {
	t.Helper()
	s, err := room.Enter(t.Context(), Client{Wide: "data.a", Subjects: []string{"data.a"}, Buffer: 10})
	if err != nil {
		t.Fatal(err)
	}
	near, c := net.Pipe()
	f := &far{Conn: c, r: bufio.NewReader(c), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer s.Leave()
		s.WebSocket(near, ahead, ending)
	}()
	op, text := f.frame(t)
	if op == websocket.OpPong { // to a ping that came ahead
		f.pongs++
		op, text = f.frame(t)
	}
	if op != websocket.OpText || !strings.Contains(text, `"hello"`) {
		t.Fatalf("the first frame is %d %s", op, text)
	}
	return f
}

// frame reads the next frame of the door.
func (f *far) frame(t *testing.T) (op byte, payload string) {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(f.r, head); err != nil {
		t.Fatal(err)
	}
	size := int(head[1])
	if size == 126 {
		long := make([]byte, 2)
		if _, err := io.ReadFull(f.r, long); err != nil {
			t.Fatal(err)
		}
		size = int(binary.BigEndian.Uint16(long))
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f.r, b); err != nil {
		t.Fatal(err)
	}
	return head[0] & 0xf, string(b)
}

// say sends a frame, masked with zeros.
func (f *far) say(t *testing.T, op byte, payload string) {
	t.Helper()
	b := websocket.AppendFrame(nil, op, []byte(payload))
	b[1] |= 0x80
	b = append(b[:2:2], append(make([]byte, 4), b[2:]...)...)
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// over fails unless the connection has ended within so long.
func (f *far) over(t *testing.T, within time.Duration) {
	t.Helper()
	begin := time.Now()
	<-f.done
	if took := time.Since(begin); took > within {
		t.Errorf("it ended after %v, not %v", took, within)
	}
	if _, err := f.Conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is not closed: %v", err)
	}
}

func TestWebSocketEnds(t *testing.T) {
	tests := []struct {
		name string
		do   func(t *testing.T, f *far, bus *memory, ending chan struct{})
	}{
		{"the client closes", func(t *testing.T, f *far, _ *memory, _ chan struct{}) {
			t.Helper()
			f.say(t, websocket.OpClose, "\x03\xe8")
			if op, code := f.frame(t); op != websocket.OpClose || code != "\x03\xe8" {
				t.Errorf("the answer is %d %q", op, code)
			}
			f.over(t, 0)
		}},
		{"the client is gone", func(t *testing.T, f *far, _ *memory, _ chan struct{}) {
			t.Helper()
			_ = f.Close()
			<-f.done
		}},
		{"the door closes", func(t *testing.T, f *far, _ *memory, ending chan struct{}) {
			t.Helper()
			close(ending)
			if op, code := f.frame(t); op != websocket.OpClose || !strings.HasPrefix(code, "\x03\xe9") {
				t.Errorf("the last frame is %d %q", op, code)
			}
			f.say(t, websocket.OpClose, "\x03\xe9")
			f.over(t, 0)
		}},
		{"the door closes, and the client says nothing", func(t *testing.T, f *far, _ *memory, ending chan struct{}) {
			t.Helper()
			close(ending)
			f.frame(t)
			f.over(t, closeTime)
		}},
		{"the client does not read", func(t *testing.T, f *far, bus *memory, _ chan struct{}) {
			t.Helper()
			bus.publish("data.a", "1", false)
			f.over(t, writeTime+2*closeTime)
		}},
		{"the client does not read on", func(t *testing.T, f *far, bus *memory, _ chan struct{}) {
			t.Helper()
			bus.publish("data.a", `"`+strings.Repeat("x", 100)+`"`, false)
			head := make([]byte, 2)
			if _, err := io.ReadFull(f.Conn, head); err != nil { // past what f.r would take
				t.Fatal(err)
			}
			time.Sleep(writeTime + time.Second)
			if rest, err := io.ReadAll(f.Conn); err != nil || len(rest) > 0 {
				t.Errorf("in the middle of a frame comes %q %v", rest, err)
			}
			f.over(t, 2*closeTime)
		}},
		{"the client answers no pings", func(t *testing.T, f *far, _ *memory, _ chan struct{}) {
			t.Helper()
			go func() { _, _ = io.Copy(io.Discard, f.r) }()
			<-f.done
		}},
		{"the client says too much", func(t *testing.T, f *far, _ *memory, _ chan struct{}) {
			t.Helper()
			go func() { _, _ = f.Write(append([]byte{0x82, 0x80 | 127, 0, 0, 0, 0, 1, 0, 0, 0}, make([]byte, 4)...)) }()
			if op, code := f.frame(t); op != websocket.OpClose || code != "\x03\xf1" {
				t.Errorf("the last frame is %d %q", op, code)
			}
			f.over(t, closeTime)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := newMemory("data.a")
				room := New(Options{Bus: bus})
				defer room.Close()
				ending := make(chan struct{})
				f := connect(t, room, nil, ending)
				defer f.Close()
				tt.do(t, f, bus, ending)
			})
		})
	}
}

// TestWebSocketThatAnswersStays for longer than one that does not.
func TestWebSocketThatAnswersStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := New(Options{Bus: newMemory("data.a")})
		defer room.Close()
		// A ping that came with the request is answered, too.
		ahead := websocket.AppendFrame(nil, websocket.OpPing, nil)
		ahead[1] |= 0x80
		f := connect(t, room, append(ahead, 0, 0, 0, 0), nil)
		defer f.Close()
		for beats := 0; beats < 20; {
			switch op, text := f.frame(t); {
			case op == websocket.OpPing:
				f.say(t, websocket.OpPong, "")
			case op == websocket.OpPong:
				f.pongs++
			case strings.Contains(text, `"heartbeat"`) && strings.Contains(text, `"cursor"`):
				beats++
			default:
				t.Errorf("%d %s", op, text)
			}
		}
		if f.pongs != 1 {
			t.Errorf("%d pongs", f.pongs)
		}
		_ = f.Close()
		<-f.done
	})
}

// TestPingLongAfterTheLastWriteIsAnswered: the deadline of that write has passed by then.
func TestPingLongAfterTheLastWriteIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := New(Options{Bus: newMemory("data.a")})
		defer room.Close()
		f := connect(t, room, nil, nil)
		defer f.Close()
		<-time.After(writeTime + 2*time.Second)
		f.say(t, websocket.OpPing, "mine")
		if op, payload := f.frame(t); op != websocket.OpPong || payload != "mine" {
			t.Errorf("the answer is %d %q", op, payload)
		}
		_ = f.Close()
		<-f.done
	})
}

// TestEventsInOneForm compares both forms of one event.
func TestEventsInOneForm(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"JSON":          {"{\"a\":\n1}", `"data":{"a": 1}`},
		"text":          {"two\nlines", `"text":"two\nlines"`},
		"bytes":         {"\xff\x00", `"base64":"/wA="`},
		"nothing":       {"", `"text":""`},
		"a lone quote":  {`"`, `"text":"\""`},
		"nested deeply": {strings.Repeat("[", 1000) + strings.Repeat("]", 1000), `"text":"` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `"`},
	} {
		e := newMessage(&Message{Subject: "data.a", Time: time.Unix(1, 0), Sequence: 3, Data: []byte(tt.data)})
		e.cursor = "c"
		body := `"subject":"data.a","sequence":3,"time":"1970-01-01T00:00:01Z",` + tt.want
		if got := string(e.serverSent()); got != "id: c\ndata: {"+body+"}\n\n" {
			t.Errorf("%s: %q", name, got)
		}
		if got := e.webSocket(); !bytes.HasSuffix(got, []byte(`{"event":"message","cursor":"c",`+body+"}")) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

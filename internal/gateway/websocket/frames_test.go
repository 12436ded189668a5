package websocket

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// frame makes a frame of so many bytes.
func frame(op byte, mask bool, size int) []byte {
	b := []byte{op, 0}
	switch {
	case size < 126:
		b[1] = byte(size)
	case size < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(size))
	}
	if mask {
		b[1] |= masked
		b = append(b, 0x81, 0xfe, 0x88, 0x7f) // looks like heads
	}
	return append(b, bytes.Repeat([]byte{0x81}, size)...)
}

// ends returns where frames end when the bytes come in pieces of the given sizes,
// which repeat.
func ends(b, pieces []byte) (at []int, f Frames) {
	done := 0
	for i := 0; len(b) > 0; i++ {
		size := len(b)
		if len(pieces) > 0 {
			size = min(size, int(pieces[i%len(pieces)])+1)
		}
		for piece := b[:size]; len(piece) > 0; {
			n, end := f.Next(piece)
			done += n
			if end {
				at = append(at, done)
			}
			piece = piece[n:]
		}
		b = b[size:]
	}
	return at, f
}

func TestFrames(t *testing.T) {
	var b []byte
	var want []int
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		for _, mask := range []bool{false, true} {
			for _, op := range []byte{0x01, 0x00, 0x80, 0x82, 0xc1, 0x89} {
				b = append(b, frame(op, mask, size)...)
				want = append(want, len(b))
			}
		}
	}
	for _, pieces := range [][]byte{nil, {0}, {1, 0, 2}, {255}, {13, 200, 0}} {
		got, f := ends(b, pieces)
		if !slices.Equal(got, want) {
			t.Errorf("in pieces of %v frames end at %v, want %v", pieces, got, want)
		}
		if !f.Between() || f.Closed() {
			t.Errorf("between %v, closed %v", f.Between(), f.Closed())
		}
	}
	if _, f := ends(b[:len(b)-1], nil); f.Between() {
		t.Error("between two frames although a byte is missing")
	}
}

func TestFramesWithAbsurdLength(t *testing.T) {
	var f Frames
	f.Pass([]byte{0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 0x81, 0})
	if f.Between() {
		t.Error("goes on as if the length made sense")
	}
}

func TestAppendClose(t *testing.T) {
	for _, toServer := range []bool{false, true} {
		b := AppendClose(nil, GoingAway, "the service restarts", toServer)
		got, f := ends(b, nil)
		if !f.Closed() || !f.Between() || len(got) != 1 {
			t.Fatalf("not one close frame: %x", b)
		}
		if (b[1]&masked != 0) != toServer {
			t.Errorf("masked is %v, towards the server %v", b[1]&masked != 0, toServer)
		}
		body := b[2:]
		if toServer {
			key := body[:4]
			body = body[4:]
			for i := range body {
				body[i] ^= key[i%4]
			}
		}
		if binary.BigEndian.Uint16(body) != 1001 || string(body[2:]) != "the service restarts" {
			t.Errorf("body %q", body)
		}
	}
	if b := AppendClose(nil, GoingAway, string(make([]byte, 500)), false); len(b) != 2+maxControl {
		t.Errorf("a long reason makes %d bytes", len(b))
	}
}

// FuzzFrames cuts bytes into pieces in two ways: frames end at the same places.
func FuzzFrames(f *testing.F) {
	f.Add(frame(0x81, true, 200), []byte{0})
	f.Add(append(frame(0x01, false, 3), frame(0x88, false, 2)...), []byte{3, 1})
	f.Add(frame(0x82, true, 70000)[:300], []byte{9})
	f.Add([]byte{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1}, []byte{1})
	f.Fuzz(func(t *testing.T, b, pieces []byte) {
		whole, a := ends(b, nil)
		cut, c := ends(b, pieces)
		if !slices.Equal(whole, cut) || a.Between() != c.Between() || a.Closed() != c.Closed() {
			t.Errorf("whole: %v %v %v; in pieces: %v %v %v", whole, a.Between(), a.Closed(), cut, c.Between(), c.Closed())
		}
	})
}

func BenchmarkFrames(b *testing.B) {
	data := bytes.Repeat(frame(0x81, true, 100), 300)
	b.SetBytes(int64(len(data)))
	var f Frames
	for b.Loop() {
		f.Pass(data)
	}
}

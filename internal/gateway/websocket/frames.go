// Package websocket finds the frames of a WebSocket (RFC 6455) in the bytes that
// pass by, so that whoever carries them can put a close frame between two.
//
// It looks at nothing but the frames' heads: extensions, fragments and payloads
// pass as they are. It does not check what endpoints must check, opens no
// connection and keeps no payload.
package websocket

import (
	"crypto/rand"
	"encoding/binary"
)

// GoingAway is the status of a close frame of an endpoint that goes away (RFC 6455,
// 7.4.1).
const GoingAway = 1001

const (
	opClose    = 0x8
	final      = 0x80
	masked     = 0x80
	maxHead    = 14
	maxControl = 125
)

// Frames follows one direction of a connection from the first byte after the
// handshake. The zero value is at the first frame's begin.
type Frames struct {
	head   [maxHead]byte
	have   int    // bytes of head
	left   uint64 // of the payload
	inside bool   // the head is whole, and payload is left
	lost   bool   // a length makes no sense: nothing is known from there on
	closed bool
}

// Next takes bytes up to the end of the frame that they belong to, and returns how
// many, and whether the frame ends there. What is left of b begins the next frame.
func (f *Frames) Next(b []byte) (n int, end bool) {
	if f.lost {
		return len(b), false
	}
	if !f.inside {
		for n < len(b) && f.have < f.headLen() {
			f.head[f.have] = b[n]
			f.have++
			n++
		}
		if f.have < f.headLen() {
			return n, false
		}
		f.left = f.length()
		if f.left > 1<<63-1 {
			f.lost = true
			return len(b), false
		}
		f.inside = true
	}
	take := min(f.left, uint64(len(b)-n))
	f.left -= take
	n += int(take)
	if f.left > 0 {
		return n, false
	}
	f.closed = f.closed || f.head[0]&0xf == opClose
	f.inside, f.have = false, 0
	return n, true
}

// Pass takes all of b.
func (f *Frames) Pass(b []byte) {
	for len(b) > 0 {
		n, _ := f.Next(b)
		b = b[n:]
	}
}

// Between reports whether the last byte ended a frame, or none has come yet.
func (f *Frames) Between() bool { return !f.lost && !f.inside && f.have == 0 }

// Closed reports whether a close frame has passed.
func (f *Frames) Closed() bool { return f.closed }

// headLen is the length of the head as far as it can be known yet.
func (f *Frames) headLen() int {
	n := 2
	if f.have < 2 {
		return n
	}
	switch f.head[1] &^ masked {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&masked != 0 {
		n += 4
	}
	return n
}

func (f *Frames) length() uint64 {
	switch n := f.head[1] &^ masked; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		return binary.BigEndian.Uint64(f.head[2:])
	default:
		return uint64(n)
	}
}

// AppendClose appends a close frame. What goes to a server must be masked, what
// goes to a client must not (RFC 6455, 5.1). The reason is cut to what fits.
func AppendClose(dst []byte, status uint16, reason string, toServer bool) []byte {
	reason = reason[:min(len(reason), maxControl-2)]
	size := byte(2 + len(reason))
	dst = append(dst, final|opClose, size)
	var key [4]byte
	if toServer {
		dst[len(dst)-1] |= masked
		_, _ = rand.Read(key[:]) // never fails
		dst = append(dst, key[:]...)
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, status)
	dst = append(dst, reason...)
	for i := range dst[start:] {
		dst[start+i] ^= key[i%4]
	}
	return dst
}

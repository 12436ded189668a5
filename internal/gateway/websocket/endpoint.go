package websocket

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it; it protects nothing
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
)

// Statuses of close frames (RFC 6455, 7.4.1).
const (
	ProtocolError = 1002
	Policy        = 1008
	TooBig        = 1009
	TryAgainLater = 1013
)

// Opcodes of frames that [AppendFrame] makes and a [Reader] returns.
const (
	OpText  = 0x1
	OpClose = opClose
	OpPing  = 0x9
	OpPong  = 0xa
)

// Handshake returns the value of Sec-WebSocket-Accept for a request that asks for a
// WebSocket, or why it is no proper request (RFC 6455, 4.2.1). The status is 400, or
// 426 for another version than 13.
func Handshake(r *http.Request) (accept string, status int, err error) {
	versions, keys := r.Header["Sec-Websocket-Version"], r.Header["Sec-Websocket-Key"]
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "", http.StatusBadRequest, errors.New("a WebSocket begins with a GET request of HTTP/1.1")
	case len(versions) != 1 || versions[0] != "13":
		return "", http.StatusUpgradeRequired, errors.New("the version of the WebSocket must be 13")
	case len(keys) != 1:
		return "", http.StatusBadRequest, errors.New("the WebSocket's key is missing")
	}
	key := strings.TrimSpace(keys[0])
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 16 {
		return "", http.StatusBadRequest, errors.New("the WebSocket's key is malformed")
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:]), 0, nil
}

// AppendFrame appends a whole frame of a server: final and unmasked.
func AppendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, final|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}

// What a [Reader] refuses.
var (
	ErrProtocol = errors.New("read websocket: the client does not speak it properly")
	ErrTooBig   = errors.New("read websocket: the client's message is too large")
)

// mostSkipped is the largest frame that a client may send and nobody reads.
const mostSkipped = 4 << 10

// Reader reads the frames of a client that has little to say: it returns control
// frames, and passes over the payloads of all others. It holds little memory.
type Reader struct {
	r    io.Reader
	buf  [160]byte // a control frame is at most 131 bytes
	from int
	to   int
}

// NewReader returns a reader of what a client sends after the handshake.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next control frame. The payload is good until the next call. It
// returns [ErrProtocol], or the error of the connection. Every frame, whatever its
// kind, is told to seen first.
func (f *Reader) Next(seen func()) (op byte, payload []byte, err error) {
	for {
		head, err := f.take(2)
		if err != nil {
			return 0, nil, err
		}
		op, size := head[0], uint64(head[1]&^masked)
		// Nothing was agreed on that would use the reserved bits (5.2), and clients mask.
		if op&0x70 != 0 || head[1]&masked == 0 {
			return 0, nil, ErrProtocol
		}
		control := op&0x8 != 0
		if control && (op&final == 0 || size > maxControl) {
			return 0, nil, ErrProtocol
		}
		if size > maxControl {
			long := 2
			if size == 127 {
				long = 8
			}
			if head, err = f.take(long); err != nil {
				return 0, nil, err
			}
			size = 0
			for _, b := range head {
				size = size<<8 | uint64(b)
			}
		}
		var key [4]byte
		if head, err = f.take(4); err != nil {
			return 0, nil, err
		}
		copy(key[:], head)
		seen()
		if !control {
			if size > mostSkipped {
				return 0, nil, ErrTooBig
			}
			if err := f.skip(size); err != nil {
				return 0, nil, err
			}
			continue
		}
		if payload, err = f.take(int(size)); err != nil {
			return 0, nil, err
		}
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		return op & 0xf, payload, nil
	}
}

// take returns the next n bytes.
func (f *Reader) take(n int) ([]byte, error) {
	if len(f.buf)-f.from < n {
		f.to = copy(f.buf[:], f.buf[f.from:f.to])
		f.from = 0
	}
	for f.to-f.from < n {
		m, err := f.r.Read(f.buf[f.to:])
		f.to += m
		if m == 0 && err != nil {
			return nil, err
		}
	}
	b := f.buf[f.from : f.from+n]
	f.from += n
	return b, nil
}

// skip passes over n bytes.
func (f *Reader) skip(n uint64) error {
	for n > 0 {
		if f.from == f.to {
			f.from = 0
			m, err := f.r.Read(f.buf[:])
			if f.to = m; m == 0 && err != nil {
				return err
			}
		}
		step := min(n, uint64(f.to-f.from))
		f.from += int(step)
		n -= step
	}
	return nil
}

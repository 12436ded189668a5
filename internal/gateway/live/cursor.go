package live

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
)

const (
	cursorVersion = 2
	macBytes      = 8
	// mostCursor is the longest cursor that is looked at.
	mostCursor = 8 << 10
)

// position is how far somebody is in a stream: everything up to the sequence is known.
type position struct {
	stream   uint64 // the stream's id
	sequence uint64
}

// positions are how far somebody is in all streams that there were at a time. The zero
// value is somebody's who has not been anywhere.
type positions struct {
	listed int64      // the time, in nanoseconds of Unix: a stream that is not in the list came later
	list   []position // sorted by stream
}

// of returns the position in a stream.
func (ps positions) of(stream uint64) (uint64, bool) {
	i, ok := slices.BinarySearchFunc(ps.list, stream, func(p position, s uint64) int {
		switch {
		case p.stream < s:
			return -1
		case p.stream > s:
			return 1
		}
		return 0
	})
	if !ok {
		return 0, false
	}
	return ps.list[i].sequence, true
}

// with returns the positions with one moved on. The slice may be changed.
func (ps positions) with(stream, sequence uint64) positions {
	for i := range ps.list {
		if ps.list[i].stream == stream {
			ps.list[i].sequence = sequence
			return ps
		}
	}
	ps.list = append(ps.list, position{stream, sequence})
	slices.SortFunc(ps.list, func(a, b position) int {
		if a.stream < b.stream {
			return -1
		}
		return 1
	})
	return ps
}

// signer makes cursors of positions, which clients keep and cannot make themselves:
// with one of their own they could read all that a queue keeps.
type signer struct{ key []byte }

// encode returns a cursor.
func (s signer) encode(ps positions) string {
	raw := make([]byte, 0, 1+8+len(ps.list)*16+macBytes)
	raw = append(raw, cursorVersion)
	raw = binary.BigEndian.AppendUint64(raw, uint64(ps.listed))
	for _, p := range ps.list {
		raw = binary.BigEndian.AppendUint64(raw, p.stream)
		raw = binary.AppendUvarint(raw, p.sequence)
	}
	raw = append(raw, s.mac(raw)...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// decode returns the positions of a cursor, and false for what is none of ours.
func (s signer) decode(cursor string) (positions, bool) {
	if len(cursor) > mostCursor || strings.ContainsAny(cursor, "\r\n") { // which base64 passes over
		return positions{}, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < 1+8+macBytes || raw[0] != cursorVersion {
		return positions{}, false
	}
	body, mac := raw[:len(raw)-macBytes], raw[len(raw)-macBytes:]
	if !hmac.Equal(mac, s.mac(body)) {
		return positions{}, false
	}
	ps := positions{listed: int64(binary.BigEndian.Uint64(body[1:]))}
	for rest := body[1+8:]; len(rest) > 0; {
		if len(rest) < 9 {
			return positions{}, false
		}
		id := binary.BigEndian.Uint64(rest)
		sequence, n := binary.Uvarint(rest[8:])
		if n <= 0 || len(ps.list) > 0 && id <= ps.list[len(ps.list)-1].stream {
			return positions{}, false
		}
		ps.list = append(ps.list, position{id, sequence})
		rest = rest[8+n:]
	}
	return ps, true
}

func (s signer) mac(b []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte("live cursor"))
	h.Write(b)
	return h.Sum(nil)[:macBytes]
}

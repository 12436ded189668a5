package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxAnswerLine bounds one line of an answer, in bytes.
const MaxAnswerLine = 64 << 20

// line is one line of an answer; exactly one field is set. An unknown kind of
// line, of a newer node, sets none and is passed over.
type line struct {
	Event  *Event          `json:"event,omitempty"`
	Item   json.RawMessage `json:"item,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// last tells that nothing follows.
func (l line) last() bool { return l.Result != nil || l.Error != nil }

// errBroken is what a reader gets when an answer stops before its end.
var errBroken = errors.New("the answer broke off")

// reader reads an answer's lines.
type reader struct {
	in  *bufio.Reader
	max int
	buf []byte
}

func newReader(r io.Reader) *reader {
	return &reader{in: bufio.NewReaderSize(r, 16<<10), max: MaxAnswerLine}
}

// next returns the next line that says something. It returns errBroken at the
// end of the input: the caller stops after the last line and never gets there.
func (r *reader) next() (line, error) {
	for {
		raw, err := r.raw()
		if err != nil {
			return line{}, err
		}
		if raw = bytes.TrimSpace(raw); len(raw) == 0 {
			continue
		}
		var l line
		if err := json.Unmarshal(raw, &l); err != nil {
			return line{}, fmt.Errorf("read answer: %w", err)
		}
		if l.Event != nil || l.Item != nil || l.last() {
			return l, nil
		}
	}
}

// raw returns one whole line, valid until the next call.
func (r *reader) raw() ([]byte, error) {
	r.buf = r.buf[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		if len(r.buf)+len(part) > r.max {
			return nil, fmt.Errorf("read answer: a line is above %d bytes", r.max)
		}
		if err == nil && len(r.buf) == 0 {
			return part, nil
		}
		r.buf = append(r.buf, part...)
		switch {
		case err == nil:
			return r.buf, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			// A line without its end is not trusted even if it parses.
			return nil, errBroken
		default:
			return nil, fmt.Errorf("read answer: %w", err)
		}
	}
}

// appendLine appends {"key":value} and a newline.
func appendLine(dst []byte, key string, value any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return dst, fmt.Errorf("write answer: %w", err)
	}
	dst = append(dst, `{"`...)
	dst = append(dst, key...)
	dst = append(dst, `":`...)
	dst = append(dst, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
	return append(dst, "}\n"...), nil
}

package upstream

import (
	"bufio"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/gateway/hop"
)

// Bounds of what a service may answer; more is malformed.
const (
	MaxHead        = 256 << 10 // bytes of a head
	MaxFields      = 1000      // lines of a head
	MaxInformation = 32        // informational answers before the final one
)

// malformedError says in which way an answer is not HTTP.
type malformedError struct{ what string }

func (e *malformedError) Error() string { return "read answer: " + e.what }

func malformed(what string) error { return &malformedError{what} }

// head is the head of an answer. It is reused for every answer of a connection.
type head struct {
	status int
	minor  byte // of HTTP/1.
	fields []hop.Field
	buf    []byte
}

// read reads a head up to and with the empty line. Errors other than
// *malformedError are the connection's; io.EOF means that nothing came at all.
func (h *head) read(br *bufio.Reader) error {
	line, err := br.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			return malformed("the status line is too long")
		}
		if len(line) > 0 {
			return malformed("it ends in the status line")
		}
		return err
	}
	// HTTP/1.x NNN reason
	if len(line) < len("HTTP/1.1 200\r\n") || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' ||
		line[8] != ' ' || line[len(line)-2] != '\r' || line[12] != ' ' && line[12] != '\r' {
		return malformed("it does not begin with an HTTP/1.1 status line")
	}
	h.minor = line[7] - '0'
	h.status = 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return malformed("the status is not a number")
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || h.status > 599 {
		return malformed("the status is " + strconv.Itoa(h.status))
	}
	return h.readFields(br)
}

// readFields reads header or trailer lines up to and with the empty one.
func (h *head) readFields(br *bufio.Reader) error {
	h.buf, h.fields = h.buf[:0], h.fields[:0]
	for {
		line, err := br.ReadSlice('\n')
		if len(h.buf)+len(line) > MaxHead {
			return malformed("the head is too large")
		}
		h.buf = append(h.buf, line...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return err
		}
		if n := len(h.buf); n >= 2 && h.buf[n-2] == '\r' && (n == 2 || n >= 4 && h.buf[n-3] == '\n') {
			break
		}
	}
	for text := string(h.buf); ; {
		i := strings.IndexByte(text, '\n')
		if i < 1 || text[i-1] != '\r' {
			return malformed("a header line does not end in CR LF")
		}
		line := text[:i-1]
		text = text[i+1:]
		if line == "" {
			return nil
		}
		colon := strings.IndexByte(line, ':')
		if colon <= 0 {
			return malformed("a header line has no name")
		}
		name := hop.Canonical(line[:colon])
		if name == "" {
			return malformed("a header's name is malformed")
		}
		value := strings.Trim(line[colon+1:], " \t")
		if !hop.CleanValue(value) {
			return malformed("a header's value is malformed")
		}
		if len(h.fields) == MaxFields {
			return malformed("there are too many headers")
		}
		h.fields = append(h.fields, hop.Field{Name: name, Value: value})
	}
}

// lookup returns the first value of a header.
func (h *head) lookup(name string) (string, bool) {
	for i := range h.fields {
		if h.fields[i].Name == name {
			return h.fields[i].Value, true
		}
	}
	return "", false
}

// copyTo adds what may go outside to the client's header. Of an informational
// answer it returns the names that it added.
func (h *head) copyTo(dst http.Header) []string {
	var connection []string
	for i := range h.fields {
		if h.fields[i].Name == "Connection" {
			connection = append(connection, h.fields[i].Value)
		}
	}
	values := make([]string, 0, len(h.fields))
	var names []string
	for i := range h.fields {
		f := &h.fields[i]
		if !hop.Answer(f.Name) || connection != nil && hop.Nominated(connection, f.Name) {
			continue
		}
		if old, ok := dst[f.Name]; ok {
			dst[f.Name] = append(old, f.Value)
			continue
		}
		values = append(values, f.Value)
		n := len(values)
		dst[f.Name] = values[n-1 : n : n]
		if h.status < http.StatusOK {
			names = append(names, f.Name)
		}
	}
	return names
}

// closes reports whether the service will close the connection, and takes its
// hint how long it keeps one otherwise.
func (h *head) closes() bool {
	closes := h.minor == 0
	for i := range h.fields {
		if h.fields[i].Name != "Connection" {
			continue
		}
		list := []string{h.fields[i].Value}
		if hop.Nominated(list, "close") {
			return true
		}
		if hop.Nominated(list, "keep-alive") {
			closes = false
		}
	}
	return closes
}

// keepAlive returns how long a connection may idle after this answer.
func (h *head) keepAlive() time.Duration {
	v, ok := h.lookup("Keep-Alive")
	if !ok {
		return linkIdle
	}
	for item := range strings.SplitSeq(v, ",") {
		name, text, _ := strings.Cut(strings.TrimSpace(item), "=")
		if n, err := strconv.Atoi(text); err == nil && strings.EqualFold(name, "timeout") {
			return max(0, min(linkIdle, time.Duration(n)*time.Second-time.Second))
		}
	}
	return linkIdle
}

// framing returns how long the body is: -1 until the connection closes, unless it
// is chunked. A head that can be read in two ways is an error.
func (h *head) framing(method string) (length int64, chunked bool, err error) {
	length = -1
	coded := 0
	for i := range h.fields {
		switch f := &h.fields[i]; f.Name {
		case "Content-Length":
			n, perr := strconv.ParseUint(f.Value, 10, 63)
			if perr != nil || f.Value[0] == '+' {
				return 0, false, malformed("its Content-Length is malformed")
			}
			if length >= 0 && length != int64(n) {
				return 0, false, malformed("it has two lengths")
			}
			length = int64(n)
		case "Transfer-Encoding":
			coded++
			if !strings.EqualFold(f.Value, "chunked") || coded > 1 || h.minor == 0 {
				return 0, false, malformed("its Transfer-Encoding is not chunked")
			}
		}
	}
	if coded > 0 && length >= 0 {
		return 0, false, malformed("it has both a length and a Transfer-Encoding")
	}
	if method == http.MethodHead || h.status == http.StatusNoContent || h.status == http.StatusNotModified {
		return 0, false, nil
	}
	return length, coded > 0, nil
}

// events reports whether the body is a stream of server-sent events.
func (h *head) events() bool {
	kind, _ := h.lookup("Content-Type")
	const want = "text/event-stream"
	return len(kind) >= len(want) && strings.EqualFold(kind[:len(want)], want)
}

// trailers returns the names that the head announces and that may be passed on.
func (h *head) trailers() map[string]bool {
	var out map[string]bool
	for i := range h.fields {
		if h.fields[i].Name != "Trailer" {
			continue
		}
		for item := range strings.SplitSeq(h.fields[i].Value, ",") {
			name := hop.Canonical(strings.TrimSpace(item))
			if name == "" || !hop.Trailer(name) {
				continue
			}
			if out == nil {
				out = map[string]bool{}
			}
			out[name] = true
		}
	}
	return out
}

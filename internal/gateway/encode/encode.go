// Package encode compresses answers on their way to a client: which coding the
// client likes, which answers gain by it, and the writers that do it.
//
// Writers come from pools, because making one costs more than most answers. What
// is flushed reaches the client as a whole, so that an answer which streams goes
// on streaming. Brotli is not made, only recognized: no small library of it is
// kept up. It does not decide for whom compressing is dangerous: that is the
// caller's business.
package encode

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Offers are the codings that [New] makes, best first.
var offers = [...]string{Zstd, Gzip}

// Least is the size in bytes below which an answer is left as it is: it would fit
// into one packet anyway.
const Least = 1 << 10

const (
	gzipLevel  = 5         // of klauspost: about zlib's 6 at a third of its time
	zstdWindow = 128 << 10 // bytes; more would cost memory per answer and gain little
)

// Pick returns the coding in which an answer to a client that sends this
// Accept-Encoding should go out, "" for as it is.
func Pick(accept []string) string { return Choose(accept, offers[:]...) }

// Gains reports whether an answer with this head gains by being compressed: it is
// a whole one of a kind that can be made smaller, not known to be small, not coded
// by the service, and nothing in its head forbids it or would become untrue.
// Event streams are left alone: a coder for each would hold memory as long as the
// stream lasts.
func Gains(status int, h http.Header) bool {
	if status < http.StatusOK || status == http.StatusNoContent || status == http.StatusPartialContent || status == http.StatusNotModified || status == http.StatusResetContent {
		return false
	}
	for _, name := range [...]string{"Content-Encoding", "Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		if _, there := h[name]; there {
			return false
		}
	}
	if length := h["Content-Length"]; len(length) > 0 {
		if n, err := strconv.ParseInt(length[0], 10, 64); err != nil || n < Least {
			return false
		}
	}
	types := h["Content-Type"]
	if len(types) != 1 || !Compressible(types[0]) {
		return false
	}
	for _, line := range h["Cache-Control"] {
		if strings.Contains(strings.ToLower(line), "no-transform") {
			return false
		}
	}
	return true
}

// Compressible reports whether bodies of a media type get smaller by compression.
func Compressible(mediaType string) bool {
	media, _, _ := strings.Cut(mediaType, ";")
	media = strings.ToLower(strings.Trim(media, " \t"))
	if text, ok := strings.CutPrefix(media, "text/"); ok {
		return text != "event-stream"
	}
	switch media {
	case "application/json", "application/javascript", "application/xml", "application/x-ndjson", "application/wasm",
		"application/graphql", "application/rtf", "application/vnd.ms-fontobject", "application/x-javascript",
		"font/ttf", "font/otf", "font/collection", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon":
		return true
	}
	return strings.HasSuffix(media, "+json") || strings.HasSuffix(media, "+xml")
}

// Announce makes the head of an answer that of its coded form: the length goes,
// which nobody knows yet, and so do ranges; a strong ETag becomes weak, because
// the bytes are others.
func Announce(h http.Header, coding string) {
	h["Content-Encoding"] = []string{coding}
	delete(h, "Content-Length")
	delete(h, "Accept-Ranges")
	if tags := h["Etag"]; len(tags) == 1 && strings.HasPrefix(tags[0], `"`) {
		h["Etag"] = []string{"W/" + tags[0]}
	}
}

// Vary adds Accept-Encoding to what an answer depends on.
func Vary(h http.Header) {
	for _, line := range h["Vary"] {
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.Trim(item, " \t"); item == "*" || strings.EqualFold(item, "Accept-Encoding") {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"], "Accept-Encoding")
}

// Writer compresses one body. It belongs to one goroutine.
type Writer struct {
	coder
	pool *sync.Pool
}

type coder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

var (
	gzips = sync.Pool{New: func() any {
		w, _ := kgzip.NewWriterLevel(nil, gzipLevel) // the level is a good one
		return w
	}}
	zstds = sync.Pool{New: func() any {
		w, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true)) // the options are good ones
		return w
	}}
)

// mostWriters bounds the memory of answers that clients do not take: each writer
// holds up to a few hundred KiB.
const mostWriters = 1 << 10

var open atomic.Int64 // writers

// New returns a writer of a coding that [Pick] has returned, to w. End it with
// Close or Drop. It returns nil while as many as may be are open; then an answer
// goes out as it is.
func New(coding string, w io.Writer) *Writer {
	if open.Add(1) > mostWriters {
		open.Add(-1)
		return nil
	}
	pool := &gzips
	if coding == Zstd {
		pool = &zstds
	}
	c := pool.Get().(coder) // the pools hold nothing else
	c.Reset(w)
	return &Writer{c, pool}
}

// Close writes what is left and the end of the body. The writer must not be used
// after that.
func (w *Writer) Close() error {
	err := w.coder.Close()
	w.free()
	return err
}

// Drop ends a body that has broken off, without an end that would make it look
// whole. The writer must not be used after that.
func (w *Writer) Drop() { w.free() }

func (w *Writer) free() {
	open.Add(-1)
	w.Reset(nil) // lets go of the client
	w.pool.Put(w.coder)
	w.coder = nil
}

package access

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuckDisk blocks every write until it is let go.
type stuckDisk struct {
	let chan struct{}
	bytes.Buffer
}

func (s *stuckDisk) Write(p []byte) (int, error) {
	<-s.let
	return s.Buffer.Write(p)
}

func TestNeverWaitsForTheDisk(t *testing.T) {
	disk := &stuckDisk{let: make(chan struct{})}
	l := New(disk, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() { defer close(done); l.Run() }()
	e := &Entry{Start: time.Now(), RequestID: "request-17", Method: "GET", Path: "/" + strings.Repeat("x", 1000), Client: netip.MustParseAddr("192.0.2.1")}
	for range 4 * mostBytes / 1000 { // returns although nothing can be written
		l.Record(e)
	}
	l.mu.Lock()
	dropped, size := l.dropped, len(l.buf)
	l.mu.Unlock()
	if dropped == 0 || size > mostBytes+2000 {
		t.Errorf("dropped %d lines, hold %d bytes", dropped, size)
	}
	close(disk.let)
	for { // until the buffer is written
		l.mu.Lock()
		size := len(l.buf)
		l.mu.Unlock()
		if size < mostBytes {
			break
		}
		runtime.Gosched()
	}
	l.Record(e)
	l.Close()
	<-done
	if !strings.Contains(disk.String(), `"dropped":`) {
		t.Error("the log does not say that lines are missing")
	}
}

// TestLinesAreWrittenTogether: soon after the first of them, and again after a pause.
func TestLinesAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var disk writes
		l := New(&disk, slog.New(slog.DiscardHandler))
		go l.Run()
		e := &Entry{Start: time.Now(), Method: "GET", Path: "/"}
		for i := range 3 {
			time.Sleep(time.Minute)
			l.Record(e)
			time.Sleep(flushAfter / 2)
			l.Record(e)
			if got := disk.all(); len(got) != i {
				t.Errorf("lines of the writes before it is time: %v", got)
			}
			time.Sleep(flushAfter / 2)
			synctest.Wait()
			if got := disk.all(); len(got) != i+1 || got[i] != 2 {
				t.Fatalf("lines of the writes: %v", got)
			}
		}
		l.Close()
		synctest.Wait()
	})
}

// writes counts the lines of each write.
type writes struct {
	mu    sync.Mutex // guards lines
	lines []int
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, bytes.Count(p, []byte("\n")))
	return len(p), nil
}

func (w *writes) all() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lines)
}

// FuzzLine writes whatever a client may send: it must stay one line of JSON.
func FuzzLine(f *testing.F) {
	f.Add("/a", "h", "GET")
	f.Add("/\n\"}", "\xff\\", "\u2028")
	f.Fuzz(func(t *testing.T, path, host, method string) {
		b := appendLine(nil, &Entry{Path: path, Host: host, Method: method, Error: path}, time.Now(), 3)
		var o map[string]any
		if err := json.Unmarshal(b, &o); err != nil || bytes.Count(b, []byte{'\n'}) != 1 {
			t.Fatalf("%q: %v", b, err)
		}
		if want := string([]rune(host)); o["host"] != want { // U+FFFD for each byte that is not UTF-8
			t.Errorf("host is %q, want %q", o["host"], want)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l := New(io.Discard, slog.New(slog.DiscardHandler))
	e := &Entry{Start: time.Now(), RequestID: "request-17", Method: "GET", Path: "/api/flows/010121", Host: "localhost", Client: netip.MustParseAddr("192.0.2.1"), Route: "GET /api/flows/{hs}", Status: 200}
	b.ReportAllocs()
	for b.Loop() {
		l.Record(e)
		if len(l.buf) > wakeAt {
			l.buf = l.buf[:0]
		}
	}
}

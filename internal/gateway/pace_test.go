package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// slowClient takes an answer at a pace, in virtual time, behind a buffer.
type slowClient struct {
	header http.Header
	pace   int64 // bytes per second, 0 for nothing at all
	buffer int   // bytes that are taken at once, to begin with
	due    time.Time
	got    int
}

func (c *slowClient) Header() http.Header                  { return c.header }
func (c *slowClient) WriteHeader(int)                      {}
func (c *slowClient) SetWriteDeadline(due time.Time) error { c.due = due; return nil }

func (c *slowClient) Write(b []byte) (int, error) {
	free := min(c.buffer, len(b))
	c.buffer -= free
	rest := len(b) - free
	if rest == 0 {
		c.got += len(b)
		return len(b), nil
	}
	need := 365 * 24 * time.Hour
	if c.pace > 0 {
		need = time.Duration(int64(rest) * int64(time.Second) / c.pace)
	}
	if left := time.Until(c.due); left < need {
		time.Sleep(left)
		return free, os.ErrDeadlineExceeded
	}
	time.Sleep(need)
	c.got += len(b)
	return len(b), nil
}

func TestClientsThatTakeAnswersTooSlowlyAreCut(t *testing.T) {
	tests := []struct {
		name   string
		least  int64
		pace   int64
		buffer int
		write  int           // bytes of one write
		every  time.Duration // that the service thinks in between
		total  int
		cut    bool
		within time.Duration // that it is cut after at the latest
	}{
		{"fast", 1000, 1 << 30, 0, 32 << 10, 0, 1 << 20, false, 0},
		{"just fast enough", 1000, 1100, 0, 32 << 10, 0, 200_000, false, 0},
		{"just fast enough, in small writes", 1000, 1100, 0, 100, 0, 50_000, false, 0},
		{"too slow", 1000, 900, 0, 32 << 10, 0, 200_000, true, time.Minute},
		{"too slow, in small writes", 1000, 500, 0, 100, 0, 50_000, true, 20 * time.Second},
		{"nothing is taken", 1000, 0, 0, 100, 0, 50_000, true, 12 * time.Second},
		{"nothing is taken of a large write", 100, 0, 1 << 20, 32 << 10, 0, 8 << 20, true, 62 * time.Second},
		{"nothing after a buffer is full", 1000, 0, 1 << 20, 32 << 10, 0, 8 << 20, true, 62 * time.Second},
		{"a slow service", 1000, 1 << 30, 0, 10, 9 * time.Second, 100, false, 0},
		{"a service slower than any deadline", 1000, 1 << 30, 0, 10, 2 * time.Minute, 100, false, 0},
		{"the default", 100, 150, 0, 8 << 10, 0, 32 << 10, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &slowClient{header: http.Header{}, pace: tt.pace, buffer: tt.buffer}
				x := &exchange{g: &Gateway{}}
				a := &x.answer
				*a = answer{ResponseWriter: c, control: *http.NewResponseController(c), clean: true, x: x}
				a.pace.least = tt.least
				began := time.Now()
				var err error
				for sum := 0; sum < tt.total && err == nil; sum += tt.write {
					time.Sleep(tt.every)
					_, err = a.Write(make([]byte, tt.write))
				}
				if errors.Is(err, errSlowClient) != tt.cut {
					t.Fatalf("after %v and %d bytes: %v", time.Since(began), c.got, err)
				}
				if took := time.Since(began); tt.cut && took > tt.within {
					t.Errorf("cut after %v only", took)
				}
				if n := x.g.refused.counts[refusedSlow].Load(); (n == 1) != tt.cut {
					t.Errorf("counted %d", n)
				}
			})
		})
	}
}

// slowBody comes at a pace, in virtual time.
type slowBody struct {
	*slowClient
	pace  int64
	piece int
	left  int
	due   time.Time
}

func (b *slowBody) SetReadDeadline(due time.Time) error { b.due = due; return nil }
func (b *slowBody) Close() error                        { return nil }

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.piece, b.left)
	need := time.Duration(int64(n) * int64(time.Second) / b.pace)
	if left := time.Until(b.due); !b.due.IsZero() && left < need {
		time.Sleep(left)
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(need)
	b.left -= n
	return n, nil
}

func TestBodiesThatComeTooSlowlyAreRefused(t *testing.T) {
	tests := []struct {
		name        string
		least, pace int64
		piece, size int
		timeout     time.Duration
		status      int // 0: all of it is read
	}{
		{"fast", 1000, 1 << 20, 4096, 1 << 20, time.Hour, 0},
		{"just fast enough", 1000, 1200, 100, 50_000, time.Hour, 0},
		{"too slow", 1000, 800, 100, 50_000, time.Hour, http.StatusRequestTimeout},
		{"small and slow", 1000, 100, 10, 500, time.Hour, 0},
		{"a byte a second", 100, 1, 1, 1000, time.Hour, http.StatusRequestTimeout},
		{"beyond the route's time", 1000, 2000, 100, 100_000, 20 * time.Second, http.StatusRequestTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &slowBody{slowClient: &slowClient{header: http.Header{}}, pace: tt.pace, piece: tt.piece, left: tt.size}
				x := &exchange{g: &Gateway{}, route: &route{filters: &routeFilters{minRate: tt.least}}, deadline: time.Now().Add(tt.timeout)}
				x.answer.control = *http.NewResponseController(src)
				r := &http.Request{Body: src, ContentLength: -1}
				if !x.guardBody(r, 1<<30) {
					t.Fatal("refused at once")
				}
				n, err := io.Copy(io.Discard, r.Body)
				var body *bodyError
				switch {
				case tt.status == 0 && (err != nil || n != int64(tt.size)):
					t.Fatalf("%d bytes: %v", n, err)
				case tt.status != 0 && (!errors.As(err, &body) || body.status != tt.status):
					t.Fatalf("%d bytes: %v", n, err)
				}
			})
		})
	}
}

func BenchmarkPace(b *testing.B) {
	c := &slowClient{header: http.Header{}, buffer: 1 << 62}
	a := answer{ResponseWriter: c, control: *http.NewResponseController(c), clean: true, status: 200}
	a.pace.least = 100
	buf := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = a.Write(buf)
	}
}

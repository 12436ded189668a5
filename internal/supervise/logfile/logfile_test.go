package logfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

func read(t *testing.T, q Query) []Line {
	t.Helper()
	var lines []Line
	if err := Read(t.Context(), q, func(l Line) error { lines = append(lines, l); return nil }); err != nil {
		t.Fatal(err)
	}
	return lines
}

func texts(lines []Line) []string {
	var s []string
	for _, l := range lines {
		s = append(s, l.Text)
	}
	return s
}

func write(t *testing.T, dir, instance string, opts Options, text ...string) *Writer {
	t.Helper()
	w, err := Open(dir, instance, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	for _, s := range text {
		if err := w.Copy(Out, strings.NewReader(s)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func TestLinesAsTheyWere(t *testing.T) {
	long := strings.Repeat("x", MaxText)
	tests := map[string]struct {
		output string
		want   []string
	}{
		"nothing":           {"", nil},
		"one":               {"a\n", []string{"a"}},
		"no last line feed": {"a\nb", []string{"a", "b"}},
		"empty lines":       {"\n\na\n", []string{"", "", "a"}},
		"forged record":     {"2026-01-02T03:04:05.000000000Z err forged\n", []string{"2026-01-02T03:04:05.000000000Z err forged"}},
		"bytes":             {"a\x00\xff\r\n", []string{"a\x00\xff\r"}},
		"longest":           {long + "\nb\n", []string{long, "", "b"}},
		"too long":          {long + "yz\nb\n", []string{long, "yz", "b"}},
		"far too long":      {long + long + "z", []string{long, long, "z"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a-1", Options{}, test.output)
			lines := read(t, Query{Dir: dir, Tail: -1})
			if !slices.Equal(texts(lines), test.want) {
				t.Errorf("read %d lines, want %d", len(lines), len(test.want))
			}
			for _, l := range lines {
				if l.Instance != "a-1" || l.Stream != Out || time.Since(l.Time) > time.Minute {
					t.Errorf("a line of %s, %s, %v", l.Instance, l.Stream, l.Time)
				}
			}
		})
	}
}

// dribble gives out a text in pieces of changing size.
type dribble struct {
	rest string
	n    int
}

func (d *dribble) Read(b []byte) (int, error) {
	if d.rest == "" {
		return 0, io.EOF
	}
	d.n = (d.n*7 + 3) % 50
	n := copy(b, d.rest[:min(d.n+1, len(d.rest))])
	d.rest = d.rest[n:]
	return n, nil
}

func TestRotationKeepsTheLastLinesInOrder(t *testing.T) {
	dir := t.TempDir()
	const limit = 2000
	w := write(t, dir, "a-1", Options{Limit: limit, Files: 3})
	var all strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	if err := w.Copy(Err, &dribble{rest: all.String()}); err != nil {
		t.Fatal(err)
	}
	found, err := segments(dir)
	if err != nil || len(found["a-1"]) != 3 {
		t.Fatalf("segments %v, %v, want 3", found, err)
	}
	for _, n := range found["a-1"] {
		if info, err := os.Stat(filepath.Join(dir, segmentName("a-1", n))); err != nil || info.Size() > limit {
			t.Errorf("a segment of %d bytes, %v", info.Size(), err)
		}
	}
	lines := read(t, Query{Dir: dir, Tail: -1})
	for i, l := range lines {
		if want := fmt.Sprintf("line %d", 1000-len(lines)+i); l.Text != want {
			t.Fatalf("line %d is %q, want %q", i, l.Text, want)
		}
	}
	if len(lines) < 3 {
		t.Errorf("only %d lines are kept", len(lines))
	}
	if got, want := w.Recent(Err), texts(lines[len(lines)-recentLines:]); !slices.Equal(got, want) {
		t.Errorf("the last lines are %q, want %q", got, want)
	}
}

func TestTail(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a-1", Options{Limit: 100, Files: 9}, "1\n2\n3\n4\n5\n6\n7\n")
	write(t, dir, "b-1", Options{}, "x\ny\n")
	tests := map[string]struct {
		query Query
		want  []string
	}{
		"none":         {Query{Tail: 0}, nil},
		"one of all":   {Query{Tail: 1}, []string{"y"}},
		"of segments":  {Query{Tail: 5}, []string{"5", "6", "7", "x", "y"}},
		"more than is": {Query{Tail: 99}, []string{"1", "2", "3", "4", "5", "6", "7", "x", "y"}},
		"all of one":   {Query{Tail: -1, Instance: "b-1"}, []string{"x", "y"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.query.Dir = dir
			if got := texts(read(t, test.query)); !slices.Equal(got, test.want) {
				t.Errorf("read %q, want %q", got, test.want)
			}
		})
	}
	nobody := func(Line) error { t.Error("a line came"); return nil }
	if err := Read(t.Context(), Query{Dir: dir, Instance: "c-1", Follow: true}, nobody); !errors.Is(err, ErrNoInstance) {
		t.Errorf("an instance that never was: %v", err)
	}
	if got := read(t, Query{Dir: filepath.Join(dir, "nosuch"), Tail: -1}); len(got) != 0 {
		t.Errorf("a folder that does not exist: %v", got)
	}
}

func TestMergesByTime(t *testing.T) {
	dir := t.TempDir()
	at := func(s int) head { return newHead(time.Date(2026, 1, 2, 3, 4, s, 0, time.FixedZone("x", 3600)), Out) }
	for instance, seconds := range map[string][]int{"a": {1, 4, 4, 9}, "b": {2, 3, 8}, "c": {1, 4}} {
		var file []byte
		for _, s := range seconds {
			file = appendRecord(file, at(s), fmt.Appendf(nil, "%d%s", s, instance))
		}
		os.WriteFile(filepath.Join(dir, segmentName(instance, 1)), file, 0o600)
	}
	want := []string{"1a", "1c", "2b", "3b", "4a", "4a", "4c", "8b", "9a"}
	if got := texts(read(t, Query{Dir: dir, Tail: -1})); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
}

func TestDamagedFilesAreReadAsFarAsPossible(t *testing.T) {
	dir := t.TempDir()
	var file []byte
	file = appendRecord(file, newHead(time.Now(), Out), []byte("one"))
	file = append(file, "garbage\n\n\xff\xfe\n"...)
	file = append(file, strings.Repeat("y", 3*MaxText)+"\n"...)
	file = appendRecord(file, newHead(time.Now(), Err), []byte("two"))
	file = append(file, "2026-01-02T03:04:05.000000000Z out torn"...)
	os.WriteFile(filepath.Join(dir, segmentName("a", 1)), file, 0o600)
	os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not a log"), 0o600)
	os.WriteFile(filepath.Join(dir, "x.1.log"), []byte("not a log"), 0o600)
	if got := texts(read(t, Query{Dir: dir, Tail: -1})); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("read %q", got)
	}
}

func TestFollowNeitherLosesNorRepeats(t *testing.T) {
	dir := t.TempDir()
	const writers, count = 3, 3000
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan Line, 100)
	done := make(chan error, 1)
	go func() {
		// All, not only what is new: it may begin after the first lines.
		done <- Read(ctx, Query{Dir: dir, Tail: -1, Follow: true, Poll: time.Millisecond}, func(l Line) error {
			got <- l
			return nil
		})
	}()
	seen := make(map[string]int)
	var wg sync.WaitGroup
	// Each writes in step with the reader, so that nothing is rotated away before
	// it was read; many rotations happen all the same.
	steps := make([]chan struct{}, writers)
	for i := range writers {
		steps[i] = make(chan struct{}, 200)
		instance := fmt.Sprintf("i-%d", i)
		w := write(t, dir, instance, Options{Limit: 10_000, Files: 4})
		r, p := io.Pipe()
		wg.Go(func() { w.Copy(Out, r) })
		wg.Go(func() {
			for n := range count {
				steps[i] <- struct{}{}
				fmt.Fprintf(p, "%d\n", n)
			}
			p.Close()
		})
	}
	limit := time.After(await.Patience)
	for range writers * count {
		select {
		case l := <-got:
			if want := fmt.Sprint(seen[l.Instance]); l.Text != want {
				t.Fatalf("%s wrote %s, want %s", l.Instance, l.Text, want)
			}
			seen[l.Instance]++
			<-steps[l.Instance[2]-'0']
		case <-limit:
			t.Fatalf("only %v of %d lines came", seen, count)
		}
	}
	wg.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if found, _ := segments(dir); found["i-0"][0] < 3 {
		t.Errorf("nothing was rotated: %v", found)
	}
}

func TestFollowSeesNewInstancesAndOutlivesRemovedOnes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not-yet")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, Query{Dir: dir, Tail: 10, Follow: true, Poll: time.Millisecond}, func(l Line) error {
			got <- l.Instance + " " + l.Text
			return nil
		})
	}()
	want := func(text string) {
		t.Helper()
		select {
		case s := <-got:
			if s != text {
				t.Fatalf("got %q, want %q", s, text)
			}
		case <-time.After(await.Patience):
			t.Fatalf("%q did not come", text)
		}
	}
	write(t, dir, "a", Options{}, "1\n")
	want("a 1")
	write(t, dir, "b", Options{}, "2\n")
	want("b 2")
	if err := Prune(dir, map[string]bool{"b": true}, 0); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "b", Options{}, "3\n")
	want("b 3")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestEmitEndsReading(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", Options{}, "1\n2\n")
	enough := errors.New("enough")
	if err := Read(t.Context(), Query{Dir: dir, Tail: -1, Follow: true}, func(Line) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("read says %v", err)
	}
}

func TestPruneKeepsTheLiveAndTheLast(t *testing.T) {
	dir := t.TempDir()
	for i, instance := range []string{"old", "older-live", "new", "newest"} {
		write(t, dir, instance, Options{Limit: 60}, "1\n2\n3\n")
		found, _ := segments(dir)
		for _, n := range found[instance] {
			at := time.Unix(int64(1000+i), 0)
			os.Chtimes(filepath.Join(dir, segmentName(instance, n)), at, at)
		}
	}
	if err := Prune(dir, map[string]bool{"older-live": true}, 2); err != nil {
		t.Fatal(err)
	}
	found, err := segments(dir)
	if err != nil || len(found) != 3 || found["old"] != nil {
		t.Errorf("left %v, %v", found, err)
	}
}

func TestDiskThatIsFull(t *testing.T) {
	dir := t.TempDir()
	w := write(t, dir, "a", Options{}, "1\n")
	good := w.file
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w.file = full
	if err := w.Copy(Out, strings.NewReader("2\n3\n")); err != nil {
		t.Fatalf("the instance is made to wait for the disk: %v", err)
	}
	w.file = good
	if err := w.Copy(Out, strings.NewReader("4\n")); err != nil {
		t.Fatal(err)
	}
	want := []string{"1", "4", "[2 lines lost: the log could not be written]"}
	if got := texts(read(t, Query{Dir: dir, Tail: -1})); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
}

func TestRecentIsBounded(t *testing.T) {
	var r Recent
	for i := range recentLines + 15 {
		r.Add(fmt.Appendf(nil, "%d%s\n", i, strings.Repeat("x", 1000)))
		r.Add([]byte("  \r\n"))
	}
	lines := r.Lines()
	if len(lines) != recentLines || !strings.HasPrefix(lines[0], "15x") || !strings.HasPrefix(lines[recentLines-1], "54x") || len(lines[9]) != recentBytes {
		t.Errorf("kept %d lines from %.5s to %.5s", len(lines), lines[0], lines[recentLines-1])
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(appendRecord(nil, newHead(time.Unix(1, 2), Err), []byte("text")))
	f.Add([]byte("2026-01-02T03:04:05.000000000Z out "))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLine(b)
		if err != nil {
			return
		}
		if again := appendRecord(nil, newHead(l.Time, l.Stream), []byte(l.Text)); !bytes.Equal(again, append(bytes.Clone(b), '\n')) {
			t.Errorf("%q came back as %q", b, again)
		}
	})
}

func FuzzSegmentName(f *testing.F) {
	f.Add("a-1.000001.log")
	f.Add("a.b.1234567.log")
	f.Add(".000000.log")
	f.Fuzz(func(t *testing.T, name string) {
		instance, n, ok := parseSegmentName(name)
		if !ok {
			return
		}
		if i, m, ok := parseSegmentName(segmentName(instance, n)); !ok || i != instance || m != n {
			t.Errorf("%q is %s %d, then %s %d", name, instance, n, i, m)
		}
	})
}

// FuzzReadFile reads files of any content, in two segments.
func FuzzReadFile(f *testing.F) {
	good := appendRecord(nil, newHead(time.Unix(1, 2), Err), []byte("text"))
	f.Add(good, good, 1)
	f.Add([]byte("garbage\n"), good[:10], 0)
	f.Add([]byte("\n\n\n"), []byte{}, -1)
	f.Fuzz(func(t *testing.T, one, two []byte, tail int) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, segmentName("a", 1)), one, 0o600)
		os.WriteFile(filepath.Join(dir, segmentName("a", 2)), two, 0o600)
		n := len(read(t, Query{Dir: dir, Tail: tail}))
		if tail >= 0 && n > tail {
			t.Errorf("%d lines, want %d at most", n, tail)
		}
		if feeds := bytes.Count(one, []byte{'\n'}) + bytes.Count(two, []byte{'\n'}); n > feeds {
			t.Errorf("%d records in %d lines", n, feeds)
		}
	})
}

// FuzzCopy checks that what comes out is what went in, however it is cut.
func FuzzCopy(f *testing.F) {
	f.Add([]byte("a\nb"), int64(100))
	f.Add([]byte("\n\n"), int64(1))
	f.Fuzz(func(t *testing.T, output []byte, limit int64) {
		dir := t.TempDir()
		w, err := Open(dir, "a", Options{Limit: limit, Files: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if err := w.Copy(Out, &dribble{rest: string(output)}); err != nil {
			t.Fatal(err)
		}
		want := strings.Split(strings.TrimSuffix(string(output), "\n"), "\n")
		if len(output) == 0 {
			want = nil
		}
		if got := texts(read(t, Query{Dir: dir, Tail: -1})); len(output) < MaxText && !slices.Equal(got, want) {
			t.Errorf("%q came back as %q", output, got)
		}
	})
}

func BenchmarkCopy(b *testing.B) {
	output := strings.Repeat(strings.Repeat("x", 79)+"\n", 10_000)
	w, err := Open(b.TempDir(), "a", Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.SetBytes(int64(len(output)))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Copy(Out, strings.NewReader(output)); err != nil {
			b.Fatal(err)
		}
	}
}

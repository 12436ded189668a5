package keeper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/supervise/logfile"
	"fairlead/internal/supervise/process"
	"fairlead/test/await"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keeper" {
		os.Exit(Main(os.Args[2:]))
	}
	await.Goroutines(m)
}

func TestMessagesTravel(t *testing.T) {
	messages := []message{
		{Kind: kindHello, Hello: &hello{Dir: "/d", DataID: "x", LogLimit: 1, LogFiles: 2}},
		{Kind: kindStart, Sequence: 1 << 63, Start: &Command{ID: "a-1", Path: "/p", Args: []string{"p", ""}, Dir: "/", Env: []string{"A=\x00é\n"}}},
		{Kind: kindEnded, ID: "a-1", Exit: &Exit{Signal: 9, Memory: true}},
		{Kind: kindGone, ID: "a-1", Output: []string{"last", "words"}},
	}
	var link bytes.Buffer
	for _, m := range messages {
		if err := writeMessage(&link, m); err != nil {
			t.Fatal(err)
		}
	}
	in := frames{from: iotest.OneByteReader(&link)}
	for _, want := range messages {
		got, err := in.next()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if _, err := in.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestBadMessages(t *testing.T) {
	tests := map[string]struct {
		bytes string
		want  error
	}{
		"empty":     {"\x00\x00\x00\x00", errFrame},
		"too long":  {"\xff\xff\xff\xff{}", errFrame},
		"torn head": {"\x00\x00", io.ErrUnexpectedEOF},
		"torn body": {"\x00\x00\x00\x08{}", io.ErrUnexpectedEOF},
		"no object": {"\x00\x00\x00\x02[]", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := (&frames{from: strings.NewReader(test.bytes)}).next()
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error is %v, want %v", err, test.want)
			}
		})
	}
	if err := writeMessage(io.Discard, message{Error: strings.Repeat("x", maxFrame)}); !errors.Is(err, errFrame) {
		t.Errorf("a message that is too long was sent: %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	var good bytes.Buffer
	writeMessage(&good, message{Kind: kindStop, ID: "a-1", Grace: time.Second})
	f.Add(good.Bytes())
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x02{}\x00\x00\x00\x04null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := frames{from: bytes.NewReader(b)}
		for {
			m, err := in.next()
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := writeMessage(&again, m); err != nil {
				t.Fatalf("%+v cannot be sent: %v", m, err)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"boot":"b","data_id":"d","keeper":{"pid":1,"start":2},"instances":{"a-1":{"pid":3,"start":4}}}`))
	f.Add([]byte(`{"instances":null}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		for _, id := range s.Instances {
			id.alive()
		}
	})
}

func TestMainByHand(t *testing.T) {
	c := exec.Command("/proc/self/exe", "keeper")
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "started by fairlead itself") {
		t.Errorf("it ended with %v and wrote %q", err, out)
	}
}

func startKeeper(t *testing.T, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{Dir: t.TempDir(), DataID: "test-" + filepath.Base(t.TempDir()) + time.Now().String(), Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
		defer cancel()
		if err := c.Shutdown(ctx, 0); err != nil {
			t.Error(err)
		}
		table, err := process.All()
		if err != nil {
			t.Error(err)
		}
		if left := table.Marked(process.Mark{Data: o.DataID}, nil, nil); len(left) > 0 {
			t.Errorf("left behind: %+v", left)
		}
	})
	return c
}

func (c *Client) shell(t *testing.T, id, script string, env ...string) (*Process, error) {
	t.Helper()
	return c.Launch(t.Context(), Command{
		ID: id, Path: "/bin/sh", Args: []string{"sh", "-c", script}, Dir: c.opts.Dir, Env: env, LogDir: filepath.Join(c.opts.Dir, "logs", "s"),
	})
}

func (c *Client) mustShell(t *testing.T, id, script string, env ...string) *Process {
	t.Helper()
	p, err := c.shell(t, id, script, env...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExits(t *testing.T) {
	c := startKeeper(t)
	tests := map[string]struct {
		script string
		want   Exit
		output []string
	}{
		"success":      {"echo out", Exit{}, []string{"out"}},
		"code":         {"echo out; echo err >&2; exit 7", Exit{Code: 7}, []string{"err"}},
		"signal":       {"kill -USR1 $$", Exit{Signal: 10}, nil},
		"no last feed": {"printf 'a\nb' >&2", Exit{}, []string{"a", "b"}},
		"bytes":        {`printf 'a\377b' >&2`, Exit{}, []string{"a\uFFFDb"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := c.mustShell(t, strings.ReplaceAll(name, " ", "-"), test.script)
			if got := p.Exit(); got != test.want {
				t.Errorf("exit %+v, want %+v", got, test.want)
			}
			if got := p.Output(); !slices.Equal(got, test.output) {
				t.Errorf("output %q, want %q", got, test.output)
			}
		})
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	c := startKeeper(t)
	if _, err := c.Launch(t.Context(), Command{ID: "a", Path: "/nosuch", Args: []string{"x"}, Dir: "/", LogDir: c.opts.Dir}); err == nil || err.Error() != "no such file or directory" {
		t.Errorf("no such program: %v", err)
	}
	c.mustShell(t, "twice", "sleep 100")
	if _, err := c.shell(t, "twice", "true"); err == nil || err.Error() != "instance twice runs already" {
		t.Errorf("the same id twice: %v", err)
	}
	if _, err := c.shell(t, "large", "true", strings.Repeat("x", maxFrame)); !errors.Is(err, errFrame) {
		t.Errorf("an environment that is too large: %v", err)
	}
	// The link is as good as before.
	if p := c.mustShell(t, "b", "exit 3"); p.Exit().Code != 3 {
		t.Error("the keeper is confused")
	}
}

func TestStandardInputIsEmpty(t *testing.T) {
	c := startKeeper(t)
	p := c.mustShell(t, "a", "cat; exec ls /proc/self/fd >&2", "PATH=/usr/bin:/bin")
	// The last is what ls opens; nothing is inherited.
	if got := p.Output(); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("it has %q", got)
	}
}

func TestStopGivesGraceToWhatTheShellLeft(t *testing.T) {
	c := startKeeper(t)
	// The shell dies of the signal at once; its child finishes its work first.
	p := c.mustShell(t, "a", `sh -c 'trap "sleep 0.2; echo finished >&2; exit" TERM; echo ready >&2; while true; do sleep 0.01; done' & wait`, "PATH=/usr/bin:/bin")
	waitForOutput(t, c, "ready")
	begin := time.Now()
	p.Stop(2 * await.Patience)
	<-p.Gone()
	if took := time.Since(begin); took > await.Patience {
		t.Errorf("it took %v", took)
	}
	if got := p.Output(); !slices.Contains(got, "finished") {
		t.Errorf("it was not let finish: %q", got)
	}
	if !p.Exit().Ours {
		t.Errorf("exit %+v does not say that it was asked to", p.Exit())
	}
}

func waitForOutput(t *testing.T, c *Client, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	found := errors.New("found")
	err := logfile.Read(ctx, logfile.Query{Dir: filepath.Join(c.opts.Dir, "logs", "s"), Tail: -1, Follow: true, Poll: 2 * time.Millisecond},
		func(l logfile.Line) error {
			if l.Text == text {
				return found
			}
			return nil
		})
	if !errors.Is(err, found) {
		t.Fatalf("%q was not written: %v", text, err)
	}
}

func TestALaterStopIsOnlyShorter(t *testing.T) {
	c := startKeeper(t)
	p := c.mustShell(t, "a", `trap "" TERM; echo ready; while true; do sleep 0.01; done`, "PATH=/usr/bin:/bin")
	waitForOutput(t, c, "ready")
	p.Stop(10 * time.Millisecond)
	p.Stop(time.Hour)
	<-p.Gone()
	q := c.mustShell(t, "b", `trap "" TERM; echo ready again; while true; do sleep 0.01; done`, "PATH=/usr/bin:/bin")
	waitForOutput(t, c, "ready again")
	q.Stop(time.Hour)
	q.Stop(0)
	<-q.Gone()
	if e := q.Exit(); e.Signal != 9 || !e.Ours {
		t.Errorf("exit %+v", e)
	}
}

func TestShutdownEndsAll(t *testing.T) {
	c := startKeeper(t)
	obeys := c.mustShell(t, "a", "exec sleep 100", "PATH=/usr/bin:/bin")
	hangs := c.mustShell(t, "b", `trap "" TERM; echo ready; while true; do sleep 0.01; done`, "PATH=/usr/bin:/bin")
	waitForOutput(t, c, "ready")
	if err := c.Shutdown(t.Context(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := obeys.Exit(); e.Signal != 15 || !e.Ours || e.Lost != "" {
		t.Errorf("the one that obeys: %+v", e)
	}
	if e := hangs.Exit(); e.Signal != 9 || !e.Ours {
		t.Errorf("the one that hangs: %+v", e)
	}
	if _, err := c.shell(t, "c", "true"); !errors.Is(err, ErrLost) {
		t.Errorf("launch after the end: %v", err)
	}
	if _, err := os.Stat(statePath(c.opts.Dir)); !os.IsNotExist(err) {
		t.Errorf("the record of running processes was left: %v", err)
	}
}

func TestLaunchThatNobodyWaitsFor(t *testing.T) {
	c := startKeeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 20 {
		p, err := c.Launch(ctx, Command{ID: string(rune('a' + i)), Path: "/bin/sleep", Args: []string{"sleep", "100"}, Dir: "/", LogDir: filepath.Join(c.opts.Dir, "logs", "s")})
		if err == nil {
			p.Stop(0)
		}
	}
	await.Until(t, "no process is left that nobody knows", func() bool {
		table, err := process.All()
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		waiting := len(c.pending) + len(c.processes)
		c.mu.Unlock()
		return waiting == 0 && len(table.Marked(process.Mark{Data: c.opts.DataID}, nil, nil)) == 0
	})
}

func TestFloodIsBounded(t *testing.T) {
	const limit, files = 64 << 10, 3
	c := startKeeper(t, func(o *Options) { o.LogLimit, o.LogFiles = limit, files })
	p := c.mustShell(t, "flood", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf '%200000s' x; echo; echo end", "PATH=/usr/bin:/bin")
	<-p.Gone()
	var size int64
	dir := filepath.Join(c.opts.Dir, "logs", "s")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != files {
		t.Fatalf("%d files, %v, want %d", len(entries), err, files)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > files*(limit+logfile.MaxText+100) {
		t.Errorf("the files take %d bytes", size)
	}
	var last logfile.Line
	if err := logfile.Read(t.Context(), logfile.Query{Dir: dir, Tail: 1}, func(l logfile.Line) error { last = l; return nil }); err != nil || last.Text != "end" {
		t.Errorf("the last line is %q, %v", last.Text, err)
	}
}

func BenchmarkFlood(b *testing.B) {
	const lines = 200_000
	text := strings.Repeat("x", 79) + "\n"
	source := filepath.Join(b.TempDir(), "source")
	if err := os.WriteFile(source, []byte(strings.Repeat(text, lines)), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Run("keeper", func(b *testing.B) {
		b.SetBytes(int64(lines * len(text)))
		o := Options{Dir: b.TempDir(), DataID: "bench-" + time.Now().String(), Logger: slog.New(slog.DiscardHandler), LogLimit: 1 << 30}
		c, err := Start(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for b.Loop() {
			n++
			p, err := c.Launch(b.Context(), Command{ID: "a" + strings.Repeat("a", n%50) + time.Now().Format("150405000000"), Path: "/bin/cat", Args: []string{"cat", source}, Dir: "/", LogDir: filepath.Join(o.Dir, "logs", "s")})
			if err != nil {
				b.Fatal(err)
			}
			<-p.Gone()
		}
		if err := c.Shutdown(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("plain-copy", func(b *testing.B) {
		b.SetBytes(int64(lines * len(text)))
		to := filepath.Join(b.TempDir(), "to")
		for b.Loop() {
			f, err := os.Create(to)
			if err != nil {
				b.Fatal(err)
			}
			c := exec.Command("/bin/cat", source)
			out, err := c.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := c.Start(); err != nil {
				b.Fatal(err)
			}
			// Not *os.File on both sides: that would be splice, without a look at the bytes.
			if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{out}, make([]byte, 64<<10)); err != nil {
				b.Fatal(err)
			}
			c.Wait()
			f.Close()
		}
	})
}

// Whoever is woken by an end finds the message about it queued: what is told of
// the instance later comes later.
func TestEndIsToldBeforeAnybodyActsOnIt(t *testing.T) {
	for range 20 {
		k := &keeper{instances: make(map[string]*instance), pids: make(map[int]*instance), wake: make(chan struct{}, 1)}
		c := exec.Command("/bin/sh", "-c", "kill -SEGV $$")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		in := &instance{id: "a-1", ended: make(chan struct{})}
		k.pids[c.Process.Pid] = in
		told := make(chan []message, 1) // sent while mu is held
		go func() {
			<-in.ended
			k.mu.Lock()
			defer k.mu.Unlock()
			told <- k.out
		}()
		var queue []message
		for done := false; !done; {
			k.reapAll()
			select {
			case queue = <-told:
				done = true
			case <-time.After(time.Millisecond):
			}
		}
		if len(queue) != 1 || queue[0].Kind != kindEnded || queue[0].Exit.Signal != int(unix.SIGSEGV) {
			t.Fatalf("queued are %+v", queue)
		}
		_ = c.Process.Release()
	}
}

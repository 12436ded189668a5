package faults_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"fairlead/test/await"
)

// TestFlood has a service write more than a log file holds while somebody
// follows its log, somebody else follows and does not read, and others want to
// be served.
func TestFlood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
system: flooding
gateway: {listen: "127.0.0.1:0"}
services:
  flood: {command: [SELF, part, flood]}
routes:
  /: {service: flood, timeout: 60s}
`)
	w.Start()
	w.Ready()
	const lines = 200_000 // more than two files of 10 MiB
	follower := w.follow(t)
	stuck := w.follow(t) // nobody reads what it writes

	following := make(chan error, 1)
	go func() { following <- inOrder(follower, lines) }()
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			if a := w.ask("GET", "/", ""); a.status != 200 || a.took > await.Patience/2 {
				t.Errorf("during the flood: %v after %v", a, a.took)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	// The first lines prove that the follower is there before the rest comes.
	if a := w.ask("POST", fmt.Sprintf("/?lines=%d", lines), ""); a.status != 200 {
		t.Errorf("the flood: %v", a)
	}
	close(done)
	others.Wait()
	if err := <-following; err != nil {
		t.Errorf("logs -f: %v", err)
	}
	if _, err := stuck.Read(make([]byte, 1)); err != nil {
		t.Errorf("the follower that did not read was cut: %v", err)
	}
	var size int64
	files, err := filepath.Glob(w.Path(".fairlead/logs/flood/*"))
	if err != nil || len(files) < 2 {
		t.Errorf("the log was not rotated: %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			size += info.Size()
		}
	}
	if most := int64(51 << 20); size > most {
		t.Errorf("the log has %d bytes, want at most %d", size, most)
	}
}

// follow runs `logs -f` and waits until it follows.
func (w *world) follow(t *testing.T) io.Reader {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, "-C", w.Dir, "logs", "-f", "-n", "-1", "flood")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
	})
	return out
}

// inOrder reads what flood wrote, to its end.
func inOrder(r io.Reader, lines int) error {
	next := 0
	for s := bufio.NewScanner(r); s.Scan(); {
		text := s.Text()
		if strings.HasSuffix(text, "| end") {
			if next != lines {
				return fmt.Errorf("%d lines came, want %d", next, lines)
			}
			return nil
		}
		var n int
		if _, err := fmt.Sscanf(text, "flood-1 | line %d ", &n); err != nil {
			return fmt.Errorf("line %q: %w", text, err)
		}
		if n != next {
			return fmt.Errorf("line %d came, want %d", n, next)
		}
		next++
	}
	return fmt.Errorf("it ended after %d lines", next)
}

package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/test/await"
)

func TestLockNamesTheLivingHolder(t *testing.T) {
	dir := t.TempDir()
	l, err := lockData(t.Context(), dir, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"", "http://127.0.0.1:3005", "http://a"} { // shorter content over longer
		if address != "" {
			if err := l.announce(address); err != nil {
				t.Fatal(err)
			}
		}
		_, err := lockData(t.Context(), dir, func(string) {})
		running, ok := errors.AsType[*RunningError](err)
		if !ok || running.PID != os.Getpid() || running.Address != address {
			t.Errorf("error is %v, want a RunningError of this process at %q", err, address)
		}
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	again, err := lockData(t.Context(), dir, func(string) {})
	if err != nil {
		t.Fatalf("the released folder cannot be locked: %v", err)
	}
	if err := again.release(); err != nil {
		t.Fatal(err)
	}
}

func TestLockWaitsForTheKeeperOfAKilledNode(t *testing.T) {
	dir := t.TempDir()
	keeper, err := lockData(t.Context(), dir, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := json.Marshal(holder{PID: 1 << 22, Start: 1, Boot: bootID()}) // beyond every pid
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), dead, 0o600); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1)
	go func() {
		<-told
		_ = keeper.release() // it has ended the last process
	}()
	l, err := lockData(t.Context(), dir, func(s string) { told <- s })
	if err != nil {
		t.Fatal(err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
}

func TestLockGivesUpWhenItsContextEnds(t *testing.T) {
	dir := t.TempDir()
	l, err := lockData(t.Context(), dir, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lockData(ctx, dir, func(string) {}); err == nil || !strings.Contains(err.Error(), "held by the processes of an earlier run") {
		t.Errorf("error is %v", err)
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it ends, and is not yet waited for", func() bool { return startTicks(p.Pid) == 0 })
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
}

//go:build real

package bus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// TestRealFullDisk fills a disk of 12 MiB with messages, by all ways into queues, and
// makes room again. It needs the right to mount.
func TestRealFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { // after the bus is closed
		if err := unix.Unmount(disk, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	sys := observatory(
		system.Queue{Name: "data.vhf", Type: "Level"}, system.Queue{Name: "data.raw"}, system.Queue{Name: "data.bad", Type: "Level", Enforce: system.EnforceQuarantine},
	)
	sys.Routes = []*system.Route{{Publish: &system.Publish{Subject: "data.vhf"}}}
	b, err := Open(t.Context(), Options{Dir: filepath.Join(disk, "bus"), System: "full", Model: sys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	js, _ := stream(t, b, "receiver")
	padding := make([]byte, 8<<10)
	for i := range padding {
		padding[i] = ' '
	}
	level := append([]byte(`{"level": 1}`), padding...)

	type place struct {
		stream   string
		sequence uint64
	}
	var stored []place
	plain := func(subject string, data []byte) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
			defer cancel()
			ack, err := js.Publish(ctx, subject, data)
			if err == nil {
				stored = append(stored, place{ack.Stream, ack.Sequence})
			}
			return err
		}
	}
	ways := map[string]func() error{
		"a type":       plain("data.vhf", level),
		"no type":      plain("data.raw", level),
		"dead letters": plain("data.bad", []byte(`"high"`)),
		"the door": func() error {
			ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
			defer cancel()
			s, err := b.Publish(ctx, catalogue.Publication{Subject: "data.vhf", Data: level, Key: time.Now().String()})
			if err == nil {
				stored = append(stored, place{s.Stream, s.Sequence})
			}
			return err
		},
	}
	all := func(when string) {
		t.Helper()
		for _, p := range stored {
			s, err := b.catalogue.js.Stream(t.Context(), p.stream)
			if err == nil {
				_, err = s.GetMsg(t.Context(), p.sequence)
			}
			if err != nil {
				t.Fatalf("%s: message %d of %s: %v", when, p.sequence, p.stream, err)
			}
		}
	}

	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, way := range ways {
		if err := way(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for n := 0; b.Healthy() == nil; n++ {
		if _ = ways["a type"](); n > 10_000 {
			t.Fatal("the disk does not become full")
		}
	}
	t.Logf("%d messages are stored", len(stored))
	all("on a full disk")
	for name, way := range ways {
		began := time.Now()
		err := way()
		api, _ := errors.AsType[*jetstream.APIError](err)
		if !errors.Is(err, catalogue.ErrUnavailable) && (api == nil || api.Code != catalogue.FullStatus) {
			t.Errorf("%s on a full disk: %v", name, err)
		}
		if took := time.Since(began); took > await.Patience/2 {
			t.Errorf("%s: told after %v", name, took)
		}
	}
	// What is wrong with a message is told all the same.
	if api, _ := errors.AsType[*jetstream.APIError](plain("data.vhf", []byte("{}"))()); api == nil || api.Code != catalogue.RefusedStatus {
		t.Errorf("got %v", api)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "there is space again", func() bool { return b.Healthy() == nil })
	all("with space again")
	for name, way := range ways {
		if err := way(); err != nil {
			t.Errorf("%s with space again: %v", name, err)
		}
	}
	all("at last")
}

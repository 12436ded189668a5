package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/test/await"
)

// driver is a storage under test.
type driver struct {
	open func(t *testing.T) Storage // of one more node, that shares with those before
	// die takes a lock and dies with it.
	die func(t *testing.T, name string)
}

func TestStorages(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) driver{"folder": beginFolder, "bucket": beginBucket} {
		t.Run(name, func(t *testing.T) {
			for rule, holds := range rules {
				t.Run(rule, func(t *testing.T) {
					t.Parallel()
					holds(t, begin(t))
				})
			}
		})
	}
}

func beginFolder(t *testing.T) driver {
	t.Helper()
	dir := t.TempDir()
	return driver{
		open: func(t *testing.T) Storage {
			t.Helper()
			f, err := openFolder(dir)
			check(t, err)
			return f
		},
		die: func(t *testing.T, name string) {
			t.Helper()
			cmd := exec.Command(os.Args[0], "-test.run=^TestDiesWithALock$")
			cmd.Env = append(os.Environ(), "CERTS_LOCK_DIR="+dir, "CERTS_LOCK_NAME="+name)
			out, err := cmd.StdoutPipe()
			check(t, err)
			check(t, cmd.Start())
			b := make([]byte, len("locked"))
			if _, err := out.Read(b); err != nil || string(b) != "locked" {
				t.Fatalf("got %q, %v", b, err)
			}
			check(t, cmd.Process.Kill())
			_ = cmd.Wait() // killed
		},
	}
}

// TestDiesWithALock is a process of another test: it takes a lock and waits to be
// killed.
func TestDiesWithALock(t *testing.T) {
	dir := os.Getenv("CERTS_LOCK_DIR")
	if dir == "" {
		return // nobody waits for it
	}
	f, err := openFolder(dir)
	check(t, err)
	_, err = f.Lock(t.Context(), os.Getenv("CERTS_LOCK_NAME"))
	check(t, err)
	fmt.Print("locked")
	select {}
}

// startBus starts a real JetStream and returns a way to open its bucket.
func startBus(tb testing.TB) func() jetstream.KeyValue {
	tb.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: tb.TempDir(), NoLog: true, NoSigs: true})
	check(tb, err)
	ns.Start()
	tb.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(await.Patience) {
		tb.Fatal("the bus does not start")
	}
	return func() jetstream.KeyValue {
		nc, err := nats.Connect(ns.ClientURL(), nats.Timeout(await.Patience))
		check(tb, err)
		tb.Cleanup(nc.Close)
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
		check(tb, err)
		kv, err := js.CreateOrUpdateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "certificates"})
		check(tb, err)
		return kv
	}
}

func beginBucket(t *testing.T) driver {
	t.Helper()
	connect, keyFile := startBus(t), filepath.Join(t.TempDir(), "bucket.key")
	open := func(t *testing.T) *Bucket {
		t.Helper()
		b, err := OpenBucket(connect(), keyFile)
		check(t, err)
		b.lease = time.Second
		return b
	}
	return driver{
		open: func(t *testing.T) Storage { t.Helper(); return open(t) },
		die: func(t *testing.T, name string) {
			t.Helper()
			_, err := open(t).kv.Create(t.Context(), lockPrefix+escape(name), nil)
			check(t, err)
		},
	}
}

var rules = map[string]func(*testing.T, driver){
	"what is stored is loaded, on every node": func(t *testing.T, d driver) {
		t.Helper()
		a, b := d.open(t), d.open(t)
		for _, value := range [][]byte{[]byte("first"), []byte("second"), {}, bytes.Repeat([]byte{0, 255}, 20_000)} {
			before := time.Now().Add(-time.Minute)
			check(t, a.Store(t.Context(), "dir/key", value))
			got, stored, err := b.Load(t.Context(), "dir/key")
			if err != nil || !bytes.Equal(got, value) {
				t.Errorf("got %d bytes, %v; want %d", len(got), err, len(value))
			}
			if stored.Before(before) || stored.After(time.Now().Add(time.Minute)) {
				t.Errorf("stored %s", stored)
			}
		}
	},
	"what is not there is said so": func(t *testing.T, d driver) {
		t.Helper()
		s := d.open(t)
		check(t, s.Store(t.Context(), "dir/key", []byte("x")))
		for _, key := range []string{"none", "dir", "dir/none", "dir/key/below"} {
			if _, _, err := s.Load(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", key, err)
			}
		}
	},
	"what is deleted is gone, also if it was not there": func(t *testing.T, d driver) {
		t.Helper()
		s := d.open(t)
		check(t, s.Delete(t.Context(), "none"))
		check(t, s.Store(t.Context(), "dir/key", []byte("x")))
		check(t, s.Delete(t.Context(), "dir/key"))
		check(t, s.Delete(t.Context(), "dir/key"))
		if _, _, err := s.Load(t.Context(), "dir/key"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("loaded: %v", err)
		}
		if keys, err := s.Keys(t.Context()); err != nil || len(keys) != 0 {
			t.Errorf("keys %v, %v", keys, err)
		}
		check(t, s.Store(t.Context(), "dir/key", []byte("again")))
		if b, _, err := s.Load(t.Context(), "dir/key"); err != nil || string(b) != "again" {
			t.Errorf("got %q, %v", b, err)
		}
	},
	"keys may hold anything": func(t *testing.T, d driver) {
		t.Helper()
		s := d.open(t)
		want := []string{
			"acme/acme-v02.api.letsencrypt.org-directory/users/a@b.example/a.json", "certificates/wildcard_.a.example/x.crt",
			"../../outside", "x/..", "a..b", ".hidden", "end.", "with space", "stern*", "größer>", "=41", "dir./.x", "a//b", "/edge/",
		}
		slices.Sort(want)
		for _, key := range want {
			check(t, s.Store(t.Context(), key, []byte(key)))
		}
		for _, key := range want {
			if b, _, err := s.Load(t.Context(), key); err != nil || string(b) != key {
				t.Errorf("%s: got %q, %v", key, b, err)
			}
		}
		got, err := s.Keys(t.Context())
		check(t, err)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	},
	"writers at the same time leave one whole value": func(t *testing.T, d driver) {
		t.Helper()
		s := d.open(t)
		var tasks sync.WaitGroup
		for i := range 8 {
			tasks.Go(func() {
				for range 5 {
					if err := s.Store(t.Context(), "key", bytes.Repeat([]byte{byte('a' + i)}, 5000)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		tasks.Wait()
		b, _, err := s.Load(t.Context(), "key")
		if err != nil || len(b) != 5000 || !bytes.Equal(b, bytes.Repeat(b[:1], 5000)) {
			t.Errorf("got %d bytes, %v", len(b), err)
		}
	},
	"one holds a lock at a time": func(t *testing.T, d driver) {
		t.Helper()
		nodes := []Storage{d.open(t), d.open(t)}
		var tasks sync.WaitGroup
		var mu sync.Mutex
		inside, most := 0, 0
		for i := range 6 {
			tasks.Go(func() {
				for range 3 {
					unlock, err := nodes[i%2].Lock(t.Context(), "order/a.example")
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					inside++
					most = max(most, inside)
					mu.Unlock()
					mu.Lock()
					inside--
					mu.Unlock()
					if err := unlock(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		tasks.Wait()
		if most != 1 {
			t.Errorf("%d held it at once", most)
		}
	},
	"locks of other names do not wait": func(t *testing.T, d driver) {
		t.Helper()
		s := d.open(t)
		for _, name := range []string{"a", "a/b", "b"} {
			unlock, err := s.Lock(t.Context(), name)
			check(t, err)
			defer unlock()
		}
	},
	"who holds a lock for long keeps it, and who waits gives up with its context": func(t *testing.T, d driver) {
		t.Helper()
		a, b := d.open(t), d.open(t)
		unlock, err := a.Lock(t.Context(), "name")
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond) // more than three leases of the bucket
		defer cancel()
		if _, err := b.Lock(ctx, "name"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		check(t, unlock())
		unlock, err = b.Lock(t.Context(), "name")
		check(t, err)
		check(t, unlock())
	},
	"a lock outlives its dead holder by a lease at most": func(t *testing.T, d driver) {
		t.Helper()
		s := d.open(t)
		d.die(t, "name")
		unlock, err := s.Lock(t.Context(), "name")
		check(t, err)
		check(t, unlock())
	},
}

func TestShelfHasFolders(t *testing.T) {
	f, err := openFolder(t.TempDir())
	check(t, err)
	s := &shelf{of: f}
	for _, key := range []string{"a/b/one", "a/b/two", "a/three", "ab/four"} {
		check(t, s.Store(t.Context(), key, []byte("1234")))
	}
	for _, test := range []struct {
		folder    string
		recursive bool
		want      string
	}{
		{"a", false, "a/b a/three"},
		{"a", true, "a/b/one a/b/two a/three"},
		{"a/b", false, "a/b/one a/b/two"},
		{"", false, "a ab"},
	} {
		got, err := s.List(t.Context(), test.folder, test.recursive)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%q: got %v, %v; want %s", test.folder, got, err, test.want)
		}
	}
	if _, err := s.List(t.Context(), "none", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if info, err := s.Stat(t.Context(), "a/b/one"); err != nil || !info.IsTerminal || info.Size != 4 {
		t.Errorf("%+v, %v", info, err)
	}
	if info, err := s.Stat(t.Context(), "a/b"); err != nil || info.IsTerminal {
		t.Errorf("%+v, %v", info, err)
	}
	check(t, s.Delete(t.Context(), "a"))
	if s.Exists(t.Context(), "a/b/one") || s.Exists(t.Context(), "a") || !s.Exists(t.Context(), "ab") {
		t.Error("deleted what was not to be, or not what was")
	}
	check(t, s.Lock(t.Context(), "lock"))
	check(t, s.Unlock(t.Context(), "lock"))
	if s.Unlock(t.Context(), "lock") == nil {
		t.Error("unlocked twice")
	}
}

func TestBucketHoldsNoPlainValue(t *testing.T) {
	kv, dir := startBus(t)(), t.TempDir()
	b, err := OpenBucket(kv, filepath.Join(dir, "key"))
	check(t, err)
	check(t, b.Store(t.Context(), "a/key", []byte("very secret")))
	check(t, b.Store(t.Context(), "b/key", []byte("very secret")))
	raw, err := kv.Get(t.Context(), "value.a/key")
	check(t, err)
	if bytes.Contains(raw.Value(), []byte("secret")) {
		t.Error("the value is readable")
	}
	if info, err := os.Stat(filepath.Join(dir, "key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}

	_, err = kv.Put(t.Context(), "value.b/key", raw.Value())
	check(t, err)
	if _, _, err := b.Load(t.Context(), "b/key"); err == nil {
		t.Error("a value is accepted under another key")
	}
	_, err = kv.Put(t.Context(), "value.b/key", []byte{sealed})
	check(t, err)
	if _, _, err := b.Load(t.Context(), "b/key"); err == nil {
		t.Error("a cut value is accepted")
	}
	other, err := OpenBucket(kv, filepath.Join(dir, "other"))
	check(t, err)
	if _, _, err := other.Load(t.Context(), "a/key"); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "same file") {
		t.Errorf("with another key: %v", err)
	}
	write(t, filepath.Join(dir, "short"), []byte("x"))
	if _, err := OpenBucket(kv, filepath.Join(dir, "short")); err == nil {
		t.Error("a short key is accepted")
	}
}

func FuzzKey(f *testing.F) {
	for _, key := range []string{"a/b.c", "..", "a..b", "=41", "/a//", "ü"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if key == "" {
			return
		}
		escaped := escape(key)
		if got, err := unescape(escaped); err != nil || got != key {
			t.Fatalf("%q is written %q and read %q, %v", key, escaped, got, err)
		}
		if !filepath.IsLocal(escaped) || filepath.Clean(escaped) != escaped {
			t.Fatalf("%q is written %q", key, escaped)
		}
		if k := valuePrefix + escaped; strings.Contains(k, "..") || strings.HasSuffix(k, ".") || strings.Trim(escaped, "-/_=.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			t.Fatalf("%q is written %q: no key of a bucket", key, escaped)
		}
		if read, err := unescape(key); err == nil && escape(read) != key {
			t.Fatalf("%q is read as %q", key, read)
		}
	})
}

package bus

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/bus/backup"
	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/test/await"
)

// staged opens a bus with a queue whose batches are staged in a folder that stands for
// memory.
func staged(t *testing.T, dir, memory string) *Bus {
	t.Helper()
	b, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: door(system.Queue{Name: "data.vhf"}), memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	return b
}

// batchesOf is where a bus stages the batches of the queue.
func batchesOf(dir string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", "data_vhf", batchesFolder)
}

// inMemory reports whether the batches of the queue are staged in a folder that stands
// for memory, and can be.
func inMemory(dir, memory string) bool {
	to, err := os.Readlink(batchesOf(dir))
	if err != nil || filepath.Dir(filepath.Dir(to)) != memory {
		return false
	}
	is, err := os.Lstat(to)
	return err == nil && is.IsDir()
}

func empty(t *testing.T, dir string) bool {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all) == 0
}

func TestBatchesAreStagedInMemoryWhileTheBusRuns(t *testing.T) {
	ownStore(t)
	dir, memory := t.TempDir(), t.TempDir()
	b := staged(t, dir, memory)
	posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"})
	check := func(when string) {
		t.Helper()
		if !inMemory(dir, memory) {
			t.Errorf("%s batches are staged on the disk", when)
		}
	}
	check("at first")
	if err := b.reopenStore(); err != nil {
		t.Fatal(err)
	}
	check("when the store was mended")
	former := b.Former()
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	gone := func(when string) {
		t.Helper()
		if _, err := os.Lstat(batchesOf(dir)); !errors.Is(err, fs.ErrNotExist) || !empty(t, memory) {
			t.Errorf("%s something is left in memory (link: %v)", when, err)
		}
	}
	gone("after a suspension")
	if err := b.Resume(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	check("after a resumption")
	if err := b.Suspend(await.Context(t)); err != nil {
		t.Fatal(err)
	}
	next, err := Open(t.Context(), Options{Dir: dir, System: "test", Model: door(system.Queue{Name: "data.vhf"}), memory: memory, Former: former})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, next) })
	b.Leave()
	check("in the next process")
	shut(t, b)
	check("when the former one has ended")
	if s := posted(t, next, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"}); !s.Duplicate || s.Sequence != 2 {
		t.Errorf("the same message is %+v", s)
	}
	shut(t, next)
	gone("at the end")
}

func TestFolderInMemoryVanishes(t *testing.T) {
	ownStore(t)
	dir, memory := t.TempDir(), t.TempDir()
	b := staged(t, dir, memory)
	posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"})
	to, err := os.Readlink(batchesOf(dir))
	if err == nil {
		err = os.RemoveAll(filepath.Dir(to))
	}
	if err != nil {
		t.Fatal(err)
	}
	await.Until(t, "messages with keys are stored", func() bool {
		s, err := b.Publish(await.Context(t), catalogue.Publication{Subject: "data.vhf", Data: level(2), Key: "2"})
		return err == nil && s.Sequence == 4
	})
	if !inMemory(dir, memory) || b.Healthy() != nil {
		t.Errorf("in memory: %v, health: %v", inMemory(dir, memory), b.Healthy())
	}
}

// TestWhoCannotStageInMemoryStagesOnTheDisk: whatever is wrong, the bus starts, says it
// once, and batches are stored.
func TestWhoCannotStageInMemoryStagesOnTheDisk(t *testing.T) {
	ownStore(t)
	for name, spoil := range map[string]func(memory, folder string) error{
		"no memory": func(memory, _ string) error { return os.Remove(memory) },
		"not ours alone": func(_, folder string) error {
			return errors.Join(os.Mkdir(folder, 0o700), os.Chmod(folder, 0o755))
		},
		"a link":              func(memory, folder string) error { return os.Symlink(memory, folder) },
		"a file":              func(_, folder string) error { return os.WriteFile(folder, nil, 0o700) },
		"others may rename":   func(memory, _ string) error { return os.Chmod(memory, 0o777) },
		"a batches directory": nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir, memory := t.TempDir(), t.TempDir()
			var log bytes.Buffer
			o := Options{Dir: dir, System: "test", memory: memory, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			folder, err := newStaging(dir, memory, nil).folder()
			if err == nil && spoil != nil {
				err = spoil(memory, folder)
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { shut(t, b) })
			if spoil == nil {
				err = os.MkdirAll(batchesOf(dir), 0o700)
			}
			if err := errors.Join(err, b.Apply(door(system.Queue{Name: "data.vhf"}))); err != nil {
				t.Fatal(err)
			}
			posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"})
			if inMemory(dir, memory) {
				t.Error("batches are staged in memory")
			}
			if err := b.Apply(door(system.Queue{Name: "data.vhf"}, system.Queue{Name: "data.raw"})); err != nil {
				t.Fatal(err)
			}
			posted(t, b, catalogue.Publication{Subject: "data.raw", Data: level(1), Key: "1"})
			shut(t, b)
			want := 1
			if spoil == nil {
				want = 0
			}
			if n := strings.Count(log.String(), "staged on the disk"); n != want {
				t.Errorf("said %d times in %s", n, log.String())
			}
		})
	}
}

func TestMemoryGrowsShort(t *testing.T) {
	store, memory := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Dir(batchesOf(store)), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		begin, then int64
		want        bool
	}{
		{"enough", stagingLeast, stagingLast, true},
		{"not enough to begin", stagingLeast - 1, stagingLeast, false},
		{"less and less", stagingLeast, stagingLast - 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStaging(store, memory, slog.New(slog.DiscardHandler))
			free := tt.begin
			s.free = func(string) (int64, error) { return free, nil }
			s.use([]string{"data_vhf"})
			if inMemory(store, memory) {
				t.Error("used before the server has read the store")
			}
			s.begin()
			s.use([]string{"data_vhf", "not there"})
			free = tt.then
			s.tend()
			if got := inMemory(store, memory); got != tt.want {
				t.Errorf("in memory: %v", got)
			}
			free = 2 * stagingLeast
			s.use([]string{"data_vhf"})
			if got := inMemory(store, memory); got != tt.want {
				t.Errorf("with room again in memory: %v", got)
			}
			s.end()
			if _, err := os.Lstat(batchesOf(store)); !errors.Is(err, fs.ErrNotExist) || !empty(t, memory) {
				t.Errorf("something stays (link: %v)", err)
			}
		})
	}
}

func TestOnlyOurOwnFolderIsTrusted(t *testing.T) {
	for _, tt := range []struct {
		name string
		mode fs.FileMode
		to   func(folder string) string
		want bool
	}{
		{"ours", 0o700, func(folder string) string { return filepath.Join(folder, "data_vhf") }, true},
		{"open to others", 0o770, func(folder string) string { return filepath.Join(folder, "data_vhf") }, false},
		{"another stream's", 0o700, func(folder string) string { return filepath.Join(folder, "data_raw") }, false},
		{"elsewhere", 0o700, func(folder string) string { return folder + "x/data_vhf" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store, memory := t.TempDir(), t.TempDir()
			s := newStaging(store, memory, slog.New(slog.DiscardHandler))
			folder, err := s.folder()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(
				os.MkdirAll(filepath.Dir(batchesOf(store)), 0o700), os.Mkdir(folder, 0o700), os.Chmod(folder, tt.mode),
				os.Symlink(tt.to(folder), batchesOf(store)), s.trust(),
			); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(batchesOf(store)); (err == nil) != tt.want {
				t.Errorf("the link: %v", err)
			}
		})
	}
}

func TestOnlyMemoryIsMemory(t *testing.T) {
	for _, path := range []string{"/proc", "/there/is/none"} {
		if n, err := freeMemory(path); err == nil {
			t.Errorf("%s has %d bytes of memory free", path, n)
		}
	}
}

// torn makes a store of which the last batch, six messages with two keys and an id, is
// there in part, as after a loss of power in the midst of it. The copy that the server
// had staged is put back where the next server looks for it if whole is true.
func torn(t *testing.T, dir, memory string, whole bool) {
	t.Helper()
	b := staged(t, dir, memory)
	posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(0)})
	together(t, b, []catalogue.Publication{ // a whole one before
		{Subject: "data.vhf", Data: level(1), Key: "1"}, {Subject: "data.vhf", Data: level(1), Key: "0"},
	})
	block := filepath.Join(filepath.Dir(batchesOf(dir)), "msgs", "1.blk")
	size := func() int64 {
		t.Helper()
		is, err := os.Stat(block)
		if err != nil {
			t.Fatal(err)
		}
		return is.Size()
	}
	before := size()
	var last *nats.Msg
	for i := range 3 {
		for _, subject := range []string{catalogue.Keys + keyHash(fmt.Sprint("key ", i)) + ".data.vhf", catalogue.Accepted + "data.vhf"} {
			n := 2*i + 1
			m := nats.NewMsg(subject)
			if subject == catalogue.Accepted+"data.vhf" {
				n, m.Data = n+1, level(100+i)
				m.Header.Set(nats.MsgIdHdr, fmt.Sprint("id ", i))
			}
			m.Header.Set("Nats-Batch-Id", "the batch")
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(n))
			if last != nil {
				if reply, err := b.catalogue.conn.RequestMsgWithContext(await.Context(t), last); err != nil || len(reply.Data) > 0 {
					t.Fatalf("%+v, %v", reply, err)
				}
			}
			last = m
		}
	}
	files, err := filepath.Glob(filepath.Join(batchesOf(dir), "*", "msgs", "1.blk"))
	if err != nil || len(files) != 1 {
		t.Fatalf("staged are %v, %v", files, err)
	}
	kept := filepath.Join(memory, "kept")
	if err := os.Link(files[0], kept); err != nil { // it holds all once the batch is stored
		t.Fatal(err)
	}
	hash := filepath.Base(filepath.Dir(filepath.Dir(files[0])))
	last.Header.Set("Nats-Batch-Commit", "1")
	if reply, err := b.catalogue.conn.RequestMsgWithContext(await.Context(t), last); err != nil || !strings.Contains(string(reply.Data), `"count":6`) {
		t.Fatalf("%s, %v", reply.Data, err)
	}
	after := size()
	shut(t, b)
	if err := errors.Join(os.Truncate(block, before+(after-before)*2/3+5), os.Remove(filepath.Join(filepath.Dir(block), "index.db"))); err != nil {
		t.Fatal(err)
	}
	if !whole {
		return
	}
	folder, err := newStaging(dir, memory, nil).folder()
	if err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(folder, "data_vhf", hash, "msgs")
	if err := errors.Join(
		os.MkdirAll(back, 0o700), os.Rename(kept, filepath.Join(back, "1.blk")), os.Symlink(filepath.Join(folder, "data_vhf"), batchesOf(dir)),
	); err != nil {
		t.Fatal(err)
	}
}

func keyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

func TestABatchThatWasCutOffIsWholeOrGone(t *testing.T) {
	ownStore(t)
	for name, whole := range map[string]bool{"killed": true, "without power": false} {
		t.Run(name, func(t *testing.T) {
			dir, memory := t.TempDir(), t.TempDir()
			torn(t, dir, memory, whole)
			for i := range 2 { // the second finds nothing to do
				b := staged(t, dir, memory)
				stored, err := catalogue.Read(await.Context(t), b.catalogue.js, "data_vhf", "data.vhf", 1, 100)
				if err != nil {
					t.Fatal(err)
				}
				want, markers := 3, uint64(2)
				if whole {
					want, markers = 6, 5
				}
				if s := state(t, b, "data.vhf"); i == 0 && (len(stored) != want || s.Markers != markers || !whole && s.Last != 9) {
					t.Errorf("there are %d messages of %+v", len(stored), s)
				}
				for n := range 3 { // who was not told sends it again
					if s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(100 + n), Key: fmt.Sprint("key ", n)}); s.Duplicate != (whole || i > 0) {
						t.Errorf("start %d: the message with key %d is %+v", i, n, s)
					}
					if s := posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(100 + n), ID: fmt.Sprint("id ", n)}); s.Duplicate != (whole || i > 0) {
						t.Errorf("start %d: the message with id %d is %+v", i, n, s)
					}
				}
				shut(t, b)
			}
		})
	}
}

// TestWhatWasDeletedIsNotRolledBack deletes the last message of a batch, as an operator
// may do it: the rest of it was acknowledged.
func TestWhatWasDeletedIsNotRolledBack(t *testing.T) {
	ownStore(t)
	dir, memory := t.TempDir(), t.TempDir()
	b := staged(t, dir, memory)
	posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"})
	s, err := b.catalogue.js.Stream(await.Context(t), "data_vhf")
	if err == nil {
		err = s.DeleteMsg(await.Context(t), 2)
	}
	if err != nil {
		t.Fatal(err)
	}
	shut(t, b)
	b = staged(t, dir, memory)
	if s := state(t, b, "data.vhf"); s.Markers != 1 || s.Last != 2 {
		t.Errorf("there is %+v", s)
	}
}

func TestBackupOfAQueueWhoseBatchesAreInMemory(t *testing.T) {
	ownStore(t)
	dir, memory := t.TempDir(), t.TempDir()
	b := staged(t, dir, memory)
	posted(t, b, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"})
	open := &nats.Msg{Subject: catalogue.Accepted + "data.vhf", Header: nats.Header{"Nats-Batch-Id": {"open"}, "Nats-Batch-Sequence": {"1"}}, Data: level(2)}
	if _, err := b.catalogue.conn.RequestMsgWithContext(await.Context(t), open); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	wrote, err := backup.Write(await.Context(t), b.catalogue.conn, &file, "test", time.Now().Truncate(time.Second), func(backup.Progress) {})
	if err != nil || wrote.Messages() != 2 {
		t.Fatalf("wrote %+v, %v", wrote, err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if _, err := backup.Restore(await.Context(t), &file, fresh, func(backup.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(batchesOf(fresh)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is staged is restored: %v", err)
	}
	next := staged(t, fresh, memory)
	if s := posted(t, next, catalogue.Publication{Subject: "data.vhf", Data: level(1), Key: "1"}); !s.Duplicate || s.Sequence != 2 {
		t.Errorf("the same message is %+v", s)
	}
	if !inMemory(dir, memory) || !inMemory(fresh, memory) {
		t.Error("two stores do not stage in memory side by side")
	}
}

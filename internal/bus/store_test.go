package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"fairlead/test/await"
)

// fullDir names the store of the child process whose files may not grow: the
// limit of a file's size is one of the process.
const fullDir = "FAIRLEAD_TEST_BUS_FULL"

func TestStoreRecoversFromFullDisk(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fullDir+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// fullDisk fills the disk, makes it writable again, and returns what is not as it
// should be.
func fullDisk(ctx context.Context, dir string) error {
	b, err := Open(ctx, Options{Dir: dir, System: "full", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	if err := errors.Join(exerciseFullDisk(ctx, b), b.Close(ctx)); err != nil {
		return err
	}
	return nil
}

func exerciseFullDisk(ctx context.Context, b *Bus) error {
	if err := b.Apply(shop()); err != nil {
		return err
	}
	cred, err := b.Issue("tradeflow", "tradeflow-1")
	if err != nil {
		return err
	}
	service, err := nats.Connect(cred.URL, nats.Timeout(await.Patience), nats.UserInfo(cred.User, cred.Password), nats.CustomInboxPrefix(cred.InboxPrefix))
	if err != nil {
		return err
	}
	defer service.Close()
	if _, err := service.QueueSubscribe("tradeflow.find", "tradeflow_queue", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		return err
	}
	if err := service.Flush(); err != nil {
		return err
	}
	gateway, err := b.Gateway()
	if err != nil {
		return err
	}
	operator, err := b.Operator("test")
	if err != nil {
		return err
	}
	js, err := jetstream.New(operator, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		return err
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		return err
	}
	var stored []uint64
	// A store that takes no writes may not answer at all.
	const soon, late = 300 * time.Millisecond, await.Patience
	publish := func(by time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, by)
		defer cancel()
		ack, err := js.Publish(ctx, "s", make([]byte, 4<<10))
		if err == nil {
			stored = append(stored, ack.Sequence)
		}
		return err
	}
	check := func(when string) error {
		if len(stored) == 0 {
			return errors.New(when + ": nothing was stored")
		}
		for _, seq := range stored {
			if _, err := stream.GetMsg(ctx, seq); err != nil {
				return fmt.Errorf("%s: read message %d: %w", when, seq, err)
			}
		}
		if _, err := gateway.Request("tradeflow.find", nil, late); err != nil {
			return fmt.Errorf("%s: request: %w", when, err)
		}
		return nil
	}
	if err := publish(late); err != nil {
		return err
	}

	signal.Ignore(unix.SIGXFSZ) // writing fails with EFBIG instead
	if err := limitFiles(32 << 10); err != nil {
		return err
	}
	if !await.Condition(func() bool { return publish(soon) != nil && b.Healthy() != nil }) {
		return errors.New("healthy on a full disk, or the limit of the files' size has no effect")
	}
	if err := check("on a full disk"); err != nil {
		return err
	}
	// It is looked at again and again, and stays as it is.
	if err := b.reopenStore(); !errors.Is(err, unix.EFBIG) || !errors.Is(b.Healthy(), unix.EFBIG) {
		return fmt.Errorf("reopened on a full disk: %w; %w", err, b.Healthy())
	}
	if err := check("on a disk that is still full"); err != nil {
		return err
	}

	b.reload.Lock() // keeps the bus from mending
	err = errors.Join(limitFiles(unix.RLIM_INFINITY), probe(b.base.StoreDir))
	stuck := publish(soon)
	b.reload.Unlock()
	if err != nil {
		return err
	}
	if stuck == nil {
		return errors.New("the server mends its store by itself: mendStore can go")
	}
	if !await.Condition(func() bool { return b.Healthy() == nil }) {
		return fmt.Errorf("not mended: %w", b.Healthy())
	}
	if err := publish(late); err != nil {
		return fmt.Errorf("publish after the mending: %w", err)
	}
	if err := check("after the mending"); err != nil {
		return err
	}
	if n := service.Stats().Reconnects + operator.Stats().Reconnects + gateway.Stats().Reconnects; n != 0 {
		return fmt.Errorf("%d connections were cut", n)
	}
	return nil
}

// limitFiles sets the size up to which files of this process may grow.
func limitFiles(size uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &now); err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: min(size, now.Max), Max: now.Max})
}

func TestReopenStoreWhilePublishing(t *testing.T) {
	ownStore(t)
	b := open(t, shop())
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.reopenStore(); err != nil { // what is made by the first stays
		t.Fatal(err)
	}
	goroutines := runtime.NumGoroutine()
	acknowledged := make(map[uint64]string)
	var count atomic.Int64 // of what was acknowledged
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if ack, err := js.Publish(ctx, "s", []byte(strconv.Itoa(i))); err == nil {
				acknowledged[ack.Sequence] = strconv.Itoa(i)
				count.Add(1)
			}
			cancel()
		}
	}()
	for i := range 10 {
		before := count.Load()
		await.Until(t, "a message is stored between", func() bool { return count.Load() > before })
		if err := b.reopenStore(); err != nil {
			t.Error(err)
		}
		issue(t, b, "tradeflow", "tradeflow-"+strconv.Itoa(i)) // a reload of the server
	}
	close(stop)
	<-done
	for seq, want := range acknowledged {
		if m, err := stream.GetMsg(t.Context(), seq); err != nil || string(m.Data) != want {
			t.Errorf("message %d: %v, %v; want %s", seq, m, err, want)
		}
	}

	// The API answers once, and nothing stays behind.
	replies, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("$JS.API.INFO", replies.Subject, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := replies.NextMsg(await.Patience); err != nil {
		t.Error(err)
	}
	if m, err := replies.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("answered twice: %s", m.Data)
	}
	// One that each opening left behind would make ten.
	await.Until(t, "goroutines ended", func() bool { return runtime.NumGoroutine() < goroutines+10 })
}

func TestStoreThatTheServerGaveUpIsOpenedAgain(t *testing.T) {
	b := open(t, shop())
	nc, err := b.Operator("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	// What the server does and says when it may not write.
	if err := b.server.Load().ShutdownJetStream(); err != nil {
		t.Fatal(err)
	}
	b.server.Load().Warnf("Filesystem permission denied while writing msg, disabling JetStream: %v", os.ErrPermission)
	await.Until(t, "healthy", func() bool { return b.Healthy() == nil })
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Error(err)
	}
}

func TestProbeTellsTheCause(t *testing.T) {
	if err := probe(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := probe("/dev/null/store"); err == nil || !strings.HasPrefix(err.Error(), "the store in /dev/null/store takes no writes: ") {
		t.Errorf("got %v", err)
	}
}

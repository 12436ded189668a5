package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

// running starts a server on a store, and stops it with the test.
func running(tb testing.TB, dir string) (*nats.Conn, jetstream.JetStream) {
	tb.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect("", nats.Timeout(await.Patience), nats.InProcessServer(s))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		tb.Fatal(err)
	}
	return nc, js
}

// filled makes two streams, one with a consumer that has acknowledged some of it.
func filled(tb testing.TB, js jetstream.JetStream, messages, size int) {
	tb.Helper()
	ctx := tb.Context()
	s, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "data", Subjects: []string{"$in.data.>"}, SubjectTransform: &jetstream.SubjectTransformConfig{Source: "$in.>", Destination: ">"},
		RePublish: &jetstream.RePublish{Source: "data.>", Destination: "data.>"}, Metadata: map[string]string{"mine": "yes"}, AllowAtomicPublish: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "empty", Subjects: []string{"empty"}}); err != nil {
		tb.Fatal(err)
	}
	body := bytes.Repeat([]byte("x"), size)
	for i := range messages {
		m := &nats.Msg{Subject: fmt.Sprintf("$in.data.%d", i%7), Header: nats.Header{"N": {fmt.Sprint(i)}}, Data: body}
		if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(30*time.Second)); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(await.Patience):
		tb.Fatal("publishing takes for ever")
	}
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		tb.Fatal(err)
	}
	batch, err := c.Fetch(messages / 2)
	if err != nil {
		tb.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(ctx); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	ctx := t.Context()
	nc, js := running(t, t.TempDir())
	filled(t, js, 200, 10_000)

	// Somebody goes on publishing meanwhile.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := js.Publish(context.WithoutCancel(ctx), "$in.data.more", []byte("more")); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	var file bytes.Buffer
	var told []Progress
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	wrote, err := Write(ctx, nc, &file, "test", made, func(p Progress) { told = append(told, p) })
	close(stop)
	<-stopped
	if err != nil {
		t.Fatal(err)
	}
	if len(wrote.Streams) != 2 || wrote.Streams[0].State.Messages < 200 || len(told) != 2 || told[1].Number != 2 || told[1].Of != 2 {
		t.Fatalf("got %+v, told %+v", wrote, told)
	}
	checked, err := Check(bytes.NewReader(file.Bytes()))
	if err != nil || checked.System != "test" || !checked.Made.Equal(made) || checked.Messages() != wrote.Messages() {
		t.Fatalf("got %+v, %v", checked, err)
	}

	dir := filepath.Join(t.TempDir(), "bus")
	if _, err := Restore(ctx, bytes.NewReader(file.Bytes()), dir, func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	_, restored := running(t, dir)
	s, err := restored.Stream(ctx, "data")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	if config.SubjectTransform == nil || config.RePublish == nil || config.Metadata["mine"] != "yes" || !config.AllowAtomicPublish {
		t.Errorf("got %+v", config)
	}
	was, err := js.Stream(ctx, "data")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= wrote.Streams[0].State.Last; seq++ {
		a, err := was.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.GetMsg(ctx, seq)
		if err != nil || a.Subject != b.Subject || !bytes.Equal(a.Data, b.Data) || a.Header.Get("N") != b.Header.Get("N") || !a.Time.Equal(b.Time) {
			t.Fatalf("message %d: got %+v, %v, want %+v", seq, b, err, a)
		}
	}
	c, err := s.Consumer(ctx, "reader")
	if err != nil || c.CachedInfo().AckFloor.Stream != 100 {
		t.Fatalf("got %+v, %v", c.CachedInfo(), err)
	}
	m, err := c.Next()
	if err != nil || m.Headers().Get("N") != "100" {
		t.Errorf("the consumer goes on with %v, %v", m, err)
	}
}

func TestDamageIsFound(t *testing.T) {
	nc, js := running(t, t.TempDir())
	filled(t, js, 20, 100)
	var file bytes.Buffer
	if _, err := Write(t.Context(), nc, &file, "test", time.Now(), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	const trailer = 1024 // two empty blocks end a tar archive, and say nothing
	for cut := 0; cut < len(whole)-trailer; cut += 512 {
		if _, err := Check(bytes.NewReader(whole[:cut])); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBackup) {
			t.Fatalf("cut at %d of %d: %v", cut, len(whole), err)
		}
	}
	from := bytes.Index(whole, []byte("1/00000001"))
	chunk := whole[from+512:]
	for _, at := range []int{0, 100, 400} {
		chunk[at] ^= 1
		if _, err := Check(bytes.NewReader(whole)); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d: %v", at, err)
		}
		dir := filepath.Join(t.TempDir(), "bus")
		if _, err := Restore(t.Context(), bytes.NewReader(whole), dir, func(Progress) {}); err == nil {
			t.Errorf("byte %d: it was restored", at)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder is left: %v", err)
		}
		chunk[at] ^= 1
	}
}

// A backup whose stream.json had changed was restored with other subjects, or with a
// max_age that took its messages.
func TestConfigurationOfBackupHasSum(t *testing.T) {
	nc, js := running(t, t.TempDir())
	filled(t, js, 20, 100)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "aged", Subjects: []string{"aged"}, MaxAge: 720 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "aged", nil); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := Write(t.Context(), nc, &file, "test", time.Now(), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"subject":  {`"subjects":["aged"]`, `"subjects":["bged"]`},
		"age":      {`"max_age":2592000000000000`, `"max_age":2592000000      `},
		"system":   {`"system":"test"`, `"system":"tost"`},
		"end":      {`"sha256":"`, `"sha255":"`},
		"sequence": {`"first_seq":1,`, `"first_seq":0,`},
	} {
		changed := bytes.Replace(file.Bytes(), []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(changed, file.Bytes()) {
			t.Fatalf("%s: not in the file", name)
		}
		if _, err := Check(bytes.NewReader(changed)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Messages could be missing from a restored stream that has a max_age, however young
// they were.
func TestVerifyMissesYoungMessages(t *testing.T) {
	nc, js := running(t, t.TempDir())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "aged", Subjects: []string{"aged"}, MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "aged", nil); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		oldest time.Time
		fine   bool
	}{
		"too old": {time.Now().Add(-2 * time.Hour), true},
		"young":   {time.Now().Add(-time.Minute), false},
	} {
		c := Content{Streams: []Stream{{Name: "aged", State: State{Messages: 2, Last: 1, Oldest: tt.oldest}}}}
		if err := verify(t.Context(), nc, c); (err == nil) != tt.fine {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestRestoreLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := Restore(t.Context(), bytes.NewReader(nil), dir, func(Progress) {}); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

// recorded is what a receiver was given.
type recorded struct{ bytes int }

func (*recorded) begin(Stream) error     { return nil }
func (r *recorded) chunk(b []byte) error { r.bytes += len(b); return nil }
func (*recorded) end() error             { return nil }

func FuzzRead(f *testing.F) {
	nc, js := running(f, f.TempDir())
	if _, err := js.CreateStream(f.Context(), jetstream.StreamConfig{Name: "a", Subjects: []string{"a"}}); err != nil {
		f.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := Write(f.Context(), nc, &file, "test", time.Unix(0, 0), func(Progress) {}); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Add([]byte("backup.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r recorded
		if c, err := read(bytes.NewReader(b), &r); err == nil && r.bytes > len(b) {
			t.Errorf("%+v with %d bytes of %d", c, r.bytes, len(b))
		}
	})
}

// BenchmarkBackup writes and restores a stream of 20,000 messages of 1 KiB.
func BenchmarkBackup(b *testing.B) {
	nc, js := running(b, b.TempDir())
	filled(b, js, 20_000, 1024)
	var file bytes.Buffer
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			file.Reset()
			if _, err := Write(b.Context(), nc, &file, "test", time.Now(), func(Progress) {}); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(20_000 * 1024)
	})
	b.Run("restore", func(b *testing.B) {
		b.SetBytes(20_000 * 1024)
		for i := 0; b.Loop(); i++ {
			if _, err := Restore(b.Context(), bytes.NewReader(file.Bytes()), filepath.Join(b.TempDir(), fmt.Sprint(i)), func(Progress) {}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Restore makes a store of a backup in the folder dir, which must not exist, and
// returns what it holds now. tell is called before each stream. On an error the
// folder is removed.
func Restore(ctx context.Context, r io.Reader, dir string, tell func(Progress)) (c Content, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore: %w", err)
		}
	}()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	err = serve(dir, func(nc *nats.Conn) error {
		to := &restorer{ctx: ctx, nc: nc, tell: tell}
		c, err = read(r, to)
		if err != nil && to.to != "" {
			_, _ = to.send(nil) //nolint:contextcheck // it has its own; else the server waits for more, 5 s long
		}
		return err
	})
	if err != nil {
		return c, err
	}
	if err := syncTree(dir); err != nil {
		return c, err
	}
	return c, serve(dir, func(nc *nats.Conn) error { return verify(ctx, nc, c) })
}

// serve runs a server on a store, for one connection within the process. It does not
// sync what it writes; syncTree does, for all of it at once.
func serve(dir string, do func(*nats.Conn) error) error {
	s, err := server.NewServer(&server.Options{
		ServerName: "fairlead-restore", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 1 << 50,
	})
	if err != nil {
		return fmt.Errorf("configure server: %w", err)
	}
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	if !s.ReadyForConnections(silence) || !s.JetStreamEnabled() {
		return fmt.Errorf("start server: it cannot use the store in %s", dir)
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.NoReconnect())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer nc.Close()
	return do(nc)
}

// restorer gives the streams of a backup to a server. The protocol is that of
// `nats stream restore` (nats-server, processStreamRestore).
type restorer struct {
	ctx    context.Context // of one read
	nc     *nats.Conn
	tell   func(Progress)
	number int
	to     string // subject that takes the chunks
	stream Stream
}

func (r *restorer) begin(s Stream) error {
	r.number++
	r.stream = s
	r.tell(Progress{Stream: s.Name, Number: r.number, State: s.State})
	request, err := json.Marshal(map[string]json.RawMessage{"config": s.config, "state": s.state})
	if err != nil {
		return err
	}
	var reply struct {
		Subject string `json:"deliver_subject"`
	}
	if err := call(r.ctx, r.nc, "$JS.API.STREAM.RESTORE."+s.Name, request, &reply); err != nil {
		return fmt.Errorf("stream %s: %w", s.Name, err)
	}
	if reply.Subject == "" {
		return fmt.Errorf("stream %s: the server does not say where to send it", s.Name)
	}
	r.to = reply.Subject
	return nil
}

func (r *restorer) chunk(data []byte) error {
	m, err := r.send(data)
	if err != nil || len(m.Data) == 0 {
		return err
	}
	return answered(m.Data, &struct{}{})
}

func (r *restorer) end() error {
	m, err := r.send(nil)
	if err != nil {
		return err
	}
	var info jetstream.StreamInfo
	return answered(m.Data, &info)
}

func (r *restorer) send(data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(r.ctx, silence, errors.New("the server does not answer"))
	defer cancel()
	m, err := r.nc.RequestWithContext(ctx, r.to, data)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return m, err
}

// verify compares the streams with what the backup says.
func verify(ctx context.Context, nc *nats.Conn, c Content) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for _, s := range c.Streams {
		is, err := js.Stream(ctx, s.Name)
		if err != nil {
			return fmt.Errorf("look at stream %s: %w", s.Name, err)
		}
		info := is.CachedInfo()
		// Only what has become too old may be gone.
		age := info.Config.MaxAge
		aged := info.Config.AllowMsgTTL || age > 0 && time.Since(s.State.Oldest) > age
		switch got := info.State; {
		case got.LastSeq != s.State.Last:
			return fmt.Errorf("stream %s: its last sequence is %d, must be %d", s.Name, got.LastSeq, s.State.Last)
		case got.Msgs > s.State.Messages, got.Msgs < s.State.Messages && !aged:
			return fmt.Errorf("stream %s: it has %d messages, must have %d", s.Name, got.Msgs, s.State.Messages)
		case got.Consumers < s.State.Consumers:
			return fmt.Errorf("stream %s: it has %d consumers, must have %d", s.Name, got.Consumers, s.State.Consumers)
		}
	}
	return nil
}

// syncTree puts all files and folders of a folder on the disk, and its own name.
func syncTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return syncFile(path)
	})
	if err != nil {
		return err
	}
	return syncFile(filepath.Dir(dir))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

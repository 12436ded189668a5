package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// store: messages over HTTP into a queue, 202 when they are synced, against as many
// who publish to a stream of the raw server, which syncs each message.
func (b *bench) store() error {
	u, err := b.up("bench", "/bus?x=1")
	if err != nil {
		return err
	}
	defer u.stop()
	address := freeAddress()
	peer, err := b.spawn(b.self, "peer", "stream", address, filepath.Join(b.dir, "stream"))
	if err != nil {
		return err
	}
	defer peer.stop()
	if err := waitTCP(address); err != nil {
		return err
	}
	var rows []string
	for _, n := range []int{1, 64, 512} {
		for _, way := range []struct{ path, name string }{{"/publish", "202"}, {"/publish-once", "202, each with a key"}} {
			limit := "5"
			if n == 1 {
				limit = ""
			}
			row, err := pair{
				name:  fmt.Sprintf("%d connections, 256 B", n),
				a:     side{way.name, b.stored(n, u.address, way.path, 256)},
				b:     side{"nats.go, a sync each", func() (result, error) { return driveWith(n, b.length, streamLoad(address, 256)) }},
				limit: limit,
			}.measure(b.rounds)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
	}
	b.table("Storing over HTTP", pairHead, rows...)
	return nil
}

// stored is a side that publishes over HTTP, each time with another X-Message.
func (b *bench) stored(n int, address, path string, size int) func() (result, error) {
	const digits = 12
	run := rand.Text() // so that no round repeats another's
	first := request("POST", path, []string{"X-Message: " + run + fmt.Sprintf("%0*d", digits, 0)}, payload(size))
	at := bytes.Index(first, []byte(run)) + len(run)
	count := 0
	next := func(last []byte) []byte {
		if last == nil {
			last = bytes.Clone(first)
		}
		count++
		copy(last[at:], fmt.Sprintf("%0*d", digits, count))
		return last
	}
	return func() (result, error) { return driveHTTP(n, b.length, address, next) }
}

// streamLoad publishes to a stream over one connection that all share.
func streamLoad(address string, size int) func() (func() error, func(), error) {
	nc, err := nats.Connect("nats://" + address)
	if err != nil {
		return func() (func() error, func(), error) { return nil, nil, err }
	}
	js, err := jetstream.New(nc)
	body := payload(size)
	var open atomic.Int64
	return func() (func() error, func(), error) {
		if err != nil {
			return nil, nil, err
		}
		open.Add(1)
		do := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, err := js.Publish(ctx, "stored", body)
			return err
		}
		end := func() {
			if open.Add(-1) == 0 {
				nc.Close()
			}
		}
		return do, end, nil
	}
}

// peerStream is a NATS server with one stream that syncs each message.
func peerStream(ctx context.Context, address, dir string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: p, NoSigs: true, JetStream: true, StoreDir: dir, SyncAlways: true, DontListen: true})
	if err != nil {
		return err
	}
	s.Start()
	defer s.Shutdown()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "STORED", Subjects: []string{"stored"}}); err != nil {
		return err
	}
	s.AcceptLoop(make(chan struct{}))
	<-ctx.Done()
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// peer runs one of the programs that fairlead is measured against.
func peer(name string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch name {
	case "nats":
		return peerNATS(ctx, args[0])
	case "stream":
		return peerStream(ctx, args[0], args[1])
	case "echo":
		return peerEcho(ctx, args[0])
	case "bare":
		return peerBare(ctx, args[0], args[1])
	case "hold":
		return peerHold(ctx, args[0])
	case "proxy":
		return peerProxy(ctx, args[0], args[1:])
	}
	return fmt.Errorf("unknown peer %q", name)
}

// peerNATS is a NATS server with the options of its defaults.
func peerNATS(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: p, NoSigs: true})
	if err != nil {
		return err
	}
	s.Start()
	<-ctx.Done()
	s.Shutdown()
	return nil
}

// peerEcho answers echo.back with what it got, in nats.go and nothing else.
func peerEcho(ctx context.Context, address string) error {
	if err := waitTCP(address); err != nil {
		return err
	}
	nc, err := nats.Connect("nats://" + address)
	if err != nil {
		return err
	}
	defer nc.Close()
	_, err = nc.QueueSubscribe("echo.back", "echo_queue", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// overNATS is a side of 64 requesters, which share one connection as the requesters
// of a program would, or have one each as HTTP's clients do.
func (b *bench) overNATS(address string, body []byte, share bool) func() (result, error) {
	var shared *nats.Conn
	return func() (result, error) {
		return drive(b.length, func() (func() error, func(), error) {
			nc, end := shared, func() {}
			if nc == nil {
				if err := waitTCP(address); err != nil {
					return nil, nil, err
				}
				var err error
				if nc, err = nats.Connect("nats://" + address); err != nil {
					return nil, nil, err
				}
				if share {
					shared = nc
				} else {
					end = nc.Close
				}
			}
			do := func() error {
				_, err := nc.Request("echo.back", body, 5*time.Second)
				return err
			}
			return do, end, nil
		})
	}
}

// peerBare is a handler that has nats.go ask echo.back, and nothing around it.
func peerBare(ctx context.Context, address, bus string) error {
	if err := waitTCP(bus); err != nil {
		return err
	}
	nc, err := nats.Connect("nats://" + bus)
	if err != nil {
		return err
	}
	defer nc.Close()
	return serve(ctx, address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m, err := nc.RequestWithContext(r.Context(), "echo.back", body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write(m.Data) // the client counts
	}))
}

// peerProxy is a bare httputil.ReverseProxy that takes the backends in turn. Its
// transport keeps enough connections: with net/http's default of two a backend
// it would measure dialling.
func peerProxy(ctx context.Context, address string, backends []string) error {
	var turn atomic.Uint64
	transport := &http.Transport{
		MaxIdleConns: 1024, MaxIdleConnsPerHost: 512,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			i, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(addr, "backend"), ":80"))
			if err != nil {
				return nil, err
			}
			network, target, _ := strings.Cut(backends[i], " ")
			var d net.Dialer
			return d.DialContext(ctx, network, target)
		},
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			i := turn.Add(1) % uint64(len(backends))
			r.SetURL(&url.URL{Scheme: "http", Host: "backend" + strconv.FormatUint(i, 10)})
			r.SetXForwarded()
		},
	}
	return serve(ctx, address, proxy)
}

func serve(ctx context.Context, address string, h http.Handler) error {
	s := &http.Server{Addr: address, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { <-ctx.Done(); _ = s.Close() }()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

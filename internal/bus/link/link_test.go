package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"fairlead/test/certificate"
)

const leafInfo = `INFO {"server_id":"N","version":"2.15.2","jetstream":true,"client_id":6,"domain":"hub","max_payload":65536,"leafnode_urls":["127.0.0.1:7422"]} `

func TestParseInfo(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		line string
		want Place
		err  string // part of it
	}{
		"leaf nodes":      {leafInfo + "\r", Place{Domain: "hub", MaxPayload: 65536}, ""},
		"without gossip":  {`INFO {"jetstream":true,"domain":"hub","info_on_connect":true}`, Place{Domain: "hub"}, ""},
		"clients":         {`INFO {"jetstream":true,"client_id":5,"domain":"hub"}`, Place{}, "port of clients"},
		"no JetStream":    {`INFO {"info_on_connect":true}`, Place{}, "no JetStream"},
		"no domain":       {`INFO {"info_on_connect":true,"jetstream":true}`, Place{}, "without a domain"},
		"two tokens":      {`INFO {"info_on_connect":true,"jetstream":true,"domain":"a.b"}`, Place{}, "one token"},
		"below zero":      {`INFO {"info_on_connect":true,"jetstream":true,"domain":"d","max_payload":-1}`, Place{Domain: "d"}, ""},
		"another service": {"HTTP/1.1 400 Bad Request", Place{}, "speaks no NATS"},
		"no object":       {"INFO", Place{}, "speaks no NATS"},
		"nothing":         {"", Place{}, "speaks no NATS"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseInfo([]byte(tt.line))
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(leafInfo))
	f.Add([]byte(`INFO {"jetstream":true,"client_id":5}`))
	f.Add([]byte("-ERR 'x'"))
	f.Fuzz(func(t *testing.T, line []byte) {
		p, err := ParseInfo(line)
		if err != nil {
			return
		}
		if p.Domain == "" || strings.ContainsAny(p.Domain, ".*> ") || p.MaxPayload < 0 {
			t.Errorf("%q is taken for %+v", line, p)
		}
	})
}

// listening takes one connection after the other and lets say speak to each.
func listening(t *testing.T, say func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			say(nc)
			_ = nc.Close()
		}
	}()
	return l.Addr().String()
}

func TestFind(t *testing.T) {
	t.Parallel()
	want := Place{Domain: "hub", MaxPayload: 65536}
	write := func(text string) func(net.Conn) {
		return func(nc net.Conn) { _, _ = nc.Write([]byte(text)) }
	}
	t.Run("in pieces", func(t *testing.T) {
		t.Parallel()
		at := listening(t, func(nc net.Conn) {
			for piece := range slices.Chunk([]byte(leafInfo+"\r\n"), 7) {
				_, _ = nc.Write(piece)
			}
		})
		if p, err := Find(t.Context(), Server{URL: "nats://" + at}); err != nil || p != want {
			t.Errorf("got %+v, %v", p, err)
		}
	})
	t.Run("TLS first", func(t *testing.T) {
		t.Parallel()
		own := certificate.New(t)
		at := listening(t, func(nc net.Conn) {
			secured := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{own}})
			if secured.Handshake() == nil {
				_, _ = secured.Write([]byte(leafInfo + "\r\n"))
			}
		})
		p, err := Find(t.Context(), Server{URL: "tls://" + at, Roots: certificate.Roots(own)})
		first := want
		first.TLSFirst = true
		if err != nil || p != first {
			t.Errorf("got %+v, %v", p, err)
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		t.Parallel()
		_, err := Find(t.Context(), Server{URL: "tls://" + listening(t, write(leafInfo+"\n"))})
		if err == nil || !strings.Contains(err.Error(), "speaks no TLS") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a certificate of nobody", func(t *testing.T) {
		t.Parallel()
		own := certificate.New(t)
		at := listening(t, func(nc net.Conn) {
			_ = tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{own}}).Handshake()
		})
		if _, err := Find(t.Context(), Server{URL: "tls://" + at}); err == nil {
			t.Error("it is taken")
		}
	})
	t.Run("without an end", func(t *testing.T) {
		t.Parallel()
		at := listening(t, write(strings.Repeat("x", maxInfo+8192)))
		if _, err := Find(t.Context(), Server{URL: "nats://" + at}); err == nil || !strings.Contains(err.Error(), "speaks no NATS") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("gone at once", func(t *testing.T) {
		t.Parallel()
		if _, err := Find(t.Context(), Server{URL: "nats://" + listening(t, write("INFO"))}); err == nil {
			t.Error("half a line is taken")
		}
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		at := listening(t, func(nc net.Conn) { _, _ = bufio.NewReader(nc).ReadByte() })
		if _, err := Find(ctx, Server{URL: "nats://" + at}); err == nil {
			t.Error("a silent server is taken")
		}
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		_, err := Find(t.Context(), Server{URL: "nats://user:hunter2@127.0.0.1:1"})
		if _, again := errors.AsType[net.Error](err); !again || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error %v", err)
		}
	})
}

func TestURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"nats://10.0.3.4":                   "nats://10.0.3.4:7422",
		"tls://user:hunter2@nats.x:1":       "tls://nats.x:1",
		"nats://[::1]":                      "nats://[::1]:7422",
		"http://user:hunter2@x":             "a NATS server elsewhere",
		"nats://user:hunter2@x:not-a-port":  "a NATS server elsewhere",
		"nats://user:hunter2@:7422":         "a NATS server elsewhere",
		"nats://user:hunter2@bad host:7422": "a NATS server elsewhere",
	} {
		s := Server{URL: url}
		if got := s.Name(); got != want {
			t.Errorf("%s is shown as %s, want %s", url, got, want)
		}
		if strings.Contains(want, " ") {
			if _, err := Find(t.Context(), s); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: error %v", url, err)
			}
		}
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	key := func(create func() (nkeys.KeyPair, error)) (seed, public string) {
		t.Helper()
		k, err := create()
		if err != nil {
			t.Fatal(err)
		}
		s, err := k.Seed()
		if err != nil {
			t.Fatal(err)
		}
		if public, err = k.PublicKey(); err != nil {
			t.Fatal(err)
		}
		return string(s), public
	}
	signing, signer := key(nkeys.CreateAccount)
	_, account := key(nkeys.CreateAccount)
	user, _ := key(nkeys.CreateUser)
	own, err := Server{SigningKey: signing}.User("x")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		server  Server
		account string // that the user is of
		err     string
	}{
		"account's own key": {Server{SigningKey: signing}, signer, ""},
		"the same, said":    {Server{SigningKey: signing, Account: signer}, signer, ""},
		"signing key":       {Server{SigningKey: signing, Account: account}, account, ""},
		"credentials":       {Server{Credentials: string(own)}, signer, ""},
		"password":          {Server{URL: "nats://a:b@c"}, "", ""},
		"no seed":           {Server{SigningKey: "SAXYZ"}, "", "not the seed"},
		"user's key":        {Server{SigningKey: user}, "", "of an account"},
		"no account":        {Server{SigningKey: signing, Account: "AAQ"}, "", "public key"},
		"no credentials":    {Server{Credentials: "hunter2"}, "", ".creds"},
		"half of them":      {Server{Credentials: string(own[:slices.Index(own, '*')])}, "", "no key"},
		"a line break more": {Server{SigningKey: signing + "\n"}, signer, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := tt.server.User("fairlead shop")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || tt.account == "" {
				if err != nil || text != nil {
					t.Fatalf("got %q, %v", text, err)
				}
				return
			}
			token, err := jwt.ParseDecoratedJWT(text)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := jwt.DecodeUserClaims(token)
			if err != nil {
				t.Fatal(err)
			}
			of := claims.IssuerAccount
			if of == "" {
				of = claims.Issuer
			}
			if of != tt.account {
				t.Errorf("the user is of %s, want %s", of, tt.account)
			}
			if _, err := nkeys.ParseDecoratedUserNKey(text); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	p := &server.Permissions{Publish: &server.SubjectPermission{
		Allow: []string{"$JS.API.INFO", "$JS.ACK.a.b.>", "$KV.x.>", "data.vhf"}, Deny: []string{"$JS.API.STREAM.DELETE.>"},
	}}
	Redirect(Place{Domain: "hub"}, p)
	Redirect(Place{Domain: "hub"}, p) // what is redirected stays
	want := []string{"$JS.hub.API.INFO", "$JS.ACK.a.b.>", "$JS.hub.API.$KV.x.>", "data.vhf"}
	if !slices.Equal(p.Publish.Allow, want) || p.Publish.Deny[0] != "$JS.hub.API.STREAM.DELETE.>" {
		t.Errorf("got %q, %q", p.Publish.Allow, p.Publish.Deny)
	}
	Redirect(Place{Domain: "hub"}, nil)
	Redirect(Place{Domain: "hub"}, &server.Permissions{})
}

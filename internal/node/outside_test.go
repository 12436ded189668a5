package node

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"fairlead/internal/control"
	"fairlead/test/await"
	"fairlead/test/certificate"
)

// outsideText makes the small system one that clients on other machines reach at an
// address, over TLS or through the door.
const outsideText = `
bus:
  outside: {listen: %q, certificate: cert.pem, key: key.pem}
  users:
    tower: {secret: TOWER, publishes: [data.vhf], subscribes: [data.vhf], asks: [echo.say]}
queues: {data.vhf: {keep: 1h}}
`

// openOutside writes that system and returns the address.
func (f *fixture) openOutside() (address string) {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // bounded by the test
	if err != nil {
		f.t.Fatal(err)
	}
	defer l.Close()
	certificate.Write(f.t, f.dir)
	f.edit("secrets: {", "secrets: {TOWER: {env: TOWER}, ")
	f.edit("routes:\n", "routes:\n  /nats: {nats: true}\n")
	address = l.Addr().String()
	f.write(f.text() + fmt.Sprintf(outsideText, address))
	return address
}

// ways connects as tower, over TLS and through the door.
func (f *fixture) ways(address, password string) map[string]func() (*nats.Conn, error) {
	opts := []nats.Option{nats.Timeout(await.Patience), nats.UserInfo("tower", password), nats.CustomInboxPrefix("_FL.user.tower"), nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	return map[string]func() (*nats.Conn, error){
		"TLS": func() (*nats.Conn, error) {
			return nats.Connect("tls://"+address, append(opts, nats.RootCAs(filepath.Join(f.dir, "cert.pem")))...)
		},
		"WebSocket": func() (*nats.Conn, error) {
			return nats.Connect("ws"+strings.TrimPrefix(f.node.URL(), "http"), append(opts, nats.ProxyPath("nats"))...)
		},
	}
}

func TestUsersComeInFromOutside(t *testing.T) {
	t.Setenv("TOWER", "first password")
	f := newFixture(t)
	address := f.openOutside()
	f.up()
	if st := f.node.Status(); st.BusOutside != address {
		t.Errorf("the status names %q", st.BusOutside)
	}
	conns := map[string]*nats.Conn{}
	for way, connect := range f.ways(address, "first password") {
		nc, err := connect()
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		defer nc.Close()
		conns[way] = nc
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		if ack, err := js.Publish("data.vhf", []byte(way)); err != nil || ack.Stream != "data_vhf" {
			t.Errorf("%s: publish: %v, %v", way, ack, err)
		}
		if m, err := nc.Request("echo.say", []byte("{}"), await.Patience); err != nil || !strings.Contains(string(m.Data), "hello") {
			t.Errorf("%s: ask: %v, %v", way, m, err)
		}
	}
	// A secret that changes is a change.
	t.Setenv("TOWER", "second password")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	for way, nc := range conns {
		await.Until(t, way+" is cut", nc.IsClosed)
		if nc, err := f.ways(address, "first password")[way](); err == nil {
			nc.Close()
			t.Errorf("%s: the former password is taken", way)
		}
		if nc, err := f.ways(address, "second password")[way](); err != nil {
			t.Errorf("%s: the next password is not taken: %v", way, err)
		} else {
			nc.Close()
		}
	}
	f.edit("  outside: {listen:", "#")
	must[control.ReloadReply](t)(verb[control.ReloadReply](f, control.VerbReload, control.ReloadRequest{}))
	if c, err := net.Dial("tcp", address); err == nil { //nolint:noctx // bounded by the test
		_ = c.Close()
		t.Error("it still listens although the file does not say so any more")
	}
}

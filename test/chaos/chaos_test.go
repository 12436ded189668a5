package chaos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/test/await"
	"fairlead/test/stage"
)

// programs are two builds of the fairlead command that differ in their version.
var programs [2]string

// TestMain builds the programs. The test binary itself plays the services.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "part" {
		play(os.Args[2])
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fairlead-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for i := range programs {
		programs[i] = filepath.Join(dir, fmt.Sprint("fairlead", i))
		if err := stage.Build("-ldflags", fmt.Sprintf("-X fairlead/internal/cli.Version=chaos-%d", i), "-o", programs[i], "fairlead/cmd/fairlead"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// TestChangesAtRandomAreNotNoticed makes some changes of every kind; with
// FAIRLEAD_CHAOS as many as it says (CI: 300). FAIRLEAD_SEED repeats a run.
func TestChangesAtRandomAreNotNoticed(t *testing.T) {
	count := 16
	if n, err := strconv.Atoi(os.Getenv("FAIRLEAD_CHAOS")); err == nil {
		count = n
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("FAIRLEAD_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("FAIRLEAD_SEED=%d", seed)
	w := newWorld(t, mathrand.New(mathrand.NewPCG(seed, 0)))
	l := &load{plain: "http://" + w.plain, secure: "https://" + w.secure, roots: w.roots, now: w.doing, mayBreak: w.killedWithin, mayEnd: w.endedWithin}
	end := l.run(t.Context())
	done := map[string]int{}
	begin := time.Now()
	for i := range count {
		c := w.next(i)
		w.say(fmt.Sprintf("change %d, %s", i, c.name))
		if err := c.make(); err != nil {
			t.Errorf("change %d, %s: %v", i, c.name, err)
			break
		}
		done[c.name]++
	}
	w.say("the end")
	w.Ready()
	end()
	var kinds []string
	l.counts.Range(func(k, v any) bool {
		kinds = append(kinds, fmt.Sprintf("%v %v", k, v.(interface{ Load() int64 }).Load()))
		return true
	})
	t.Logf("%d changes in %s: %v", count, time.Since(begin).Round(time.Second), done)
	t.Logf("requests and messages: %v; the longest request took %s", kinds, time.Duration(l.longest.Load()).Round(time.Millisecond))
	t.Logf("%d requests that may not be repeated were on a killed instance; %d conversations were ended by changes of their own", l.broken, l.ended)
	for i, f := range l.failed {
		if i == 20 {
			t.Errorf("and %d more", len(l.failed)-i)
			break
		}
		t.Error(f)
	}
	if len(kinds) < 8 {
		t.Errorf("only %d kinds of load were answered", len(kinds))
	}
}

// world is a system that runs.
type world struct {
	*stage.System
	rand          *mathrand.Rand
	plain, secure string
	roots         *x509.CertPool
	ca            *x509.Certificate
	caKey         *ecdsa.PrivateKey
	program       int // that runs
	edits         int

	mu    sync.Mutex // guards the fields below
	does  string
	kills []death
	ends  []span // changes that may end conversations
}

type span struct{ from, to time.Time }

func newWorld(t *testing.T, r *mathrand.Rand) *world {
	t.Helper()
	w := &world{System: stage.New(t, programs[0], ""), rand: r, plain: freeAddress(t), secure: freeAddress(t)}
	t.Cleanup(w.down)
	w.makeCA()
	w.makeCertificate()
	w.describe()
	w.Start()
	w.Ready()
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// describe writes the file as it should be now.
func (w *world) describe() {
	self, err := os.Executable()
	if err != nil {
		w.T.Fatal(err)
	}
	var more strings.Builder
	for i := range w.edits % 7 {
		fmt.Fprintf(&more, "  GET /edited%d/{id}: {service: web, headers: {answer: {X-Edit: \"%d\"}}}\n", i, w.edits)
	}
	w.Write("fairlead.yaml", fmt.Sprintf(`system: chaos
gateway:
  listen: [{address: %q, tls: false}, {address: %q}]
  tls: {certificate: cert.pem, key: key.pem}
  limits: {connections: 2000}
services:
  web: {command: [%q, part, web], replicas: 2, stop_grace_period: 60s}
  bus: {command: [%q, part, bus], replicas: 2, bus: {group: bus, answers: [bus.echo]}}
  live: {command: [%q, part, live], replicas: 2, update: {drain: 1s}}
routes:
  /web/: {service: web}
  /bus: {request: bus.echo}
  GET /ws: {service: live}
  GET /events: {service: live}
%s`, w.plain, w.secure, self, self, self, more.String()))
}

func (w *world) makeCA() {
	var err error
	if w.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		w.T.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chaos"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, w.caKey.Public(), w.caKey)
	if err != nil {
		w.T.Fatal(err)
	}
	if w.ca, err = x509.ParseCertificate(der); err != nil {
		w.T.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.ca)
}

// makeCertificate replaces the door's certificate and key.
func (w *world) makeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.T.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 2, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, key.Public(), w.caKey)
	if err != nil {
		w.T.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		w.T.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}, "cert.pem": {Type: "CERTIFICATE", Bytes: der}} {
		path := filepath.Join(w.Dir, name)
		if err := errors.Join(os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600), os.Rename(path+".new", path)); err != nil {
			w.T.Fatal(err)
		}
	}
}

// verb runs the command that belongs to the node that runs.
func (w *world) verb(args ...string) error {
	w.Program = programs[w.program]
	if code, out := w.Command(args...); code != 0 {
		return fmt.Errorf("fairlead %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return nil
}

// down ends the system by the verb: a signal would reach the first process only.
func (w *world) down() {
	if err := w.verb("down"); err != nil {
		w.T.Error(err)
		return
	}
	w.Wait()
}

func (w *world) say(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.does = what
}

func (w *world) doing() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.does
}

// death is when an instance was killed, and when its process was gone: what it was
// sent in between it may have taken.
type death struct{ from, to time.Time }

// killedWithin reports whether an instance was dying while a request was open.
func (w *world) killedWithin(from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kills {
		if k.from.Before(to) && (k.to.IsZero() || k.to.After(from.Add(-50*time.Millisecond))) {
			return true
		}
	}
	return false
}

// endedWithin reports whether a change that may end conversations fell in a time.
func (w *world) endedWithin(from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.ends {
		if s.from.Before(to) && (s.to.IsZero() || s.to.After(from)) {
			return true
		}
	}
	return false
}

// ending marks a change that may end conversations, in good order, until some time
// after it.
func (w *world) ending(after time.Duration, do func() error) error {
	w.mu.Lock()
	w.ends = append(w.ends, span{from: time.Now()})
	i := len(w.ends) - 1
	w.mu.Unlock()
	err := do()
	w.mu.Lock()
	w.ends[i].to = time.Now().Add(after)
	w.mu.Unlock()
	return err
}

type change struct {
	name string
	make func() error
}

// next chooses a change. The first ones take turns, so that every kind is there.
func (w *world) next(i int) change {
	restart := func(name string) change {
		return change{"restart " + name, func() error { return w.verb("restart", name) }}
	}
	kinds := []change{
		// A former process ends conversations that are still open in good order after
		// its time for that, half a minute, at the latest when the next one retires.
		{"upgrade", func() error {
			return w.ending(40*time.Second, func() error {
				to := 1 - w.program
				if err := w.verb("upgrade", programs[to]); err != nil {
					return err
				}
				w.program = to
				s, err := w.Status()
				if err == nil && !strings.HasSuffix(s.Version, fmt.Sprint("chaos-", to)) {
					err = fmt.Errorf("version %q runs after the upgrade to %d", s.Version, to)
				}
				return err
			})
		}},
		{"restart live", func() error {
			return w.ending(10*time.Second, func() error { return w.verb("restart", "live") })
		}},
		restart("web"), restart("bus"),
		{"reload routes", func() error {
			w.edits++
			w.describe()
			return w.verb("reload")
		}},
		{"kill", w.kill},
		{"certificate", func() error { w.makeCertificate(); return nil }},
		{"scale", func() error {
			return w.verb("scale", "web", fmt.Sprint(1+w.rand.IntN(3)))
		}},
	}
	if i < len(kinds) {
		return kinds[i]
	}
	// Upgrades take seconds and come more seldom.
	if n := w.rand.IntN(20); n == 0 {
		return kinds[0]
	}
	return kinds[1+w.rand.IntN(len(kinds)-1)]
}

// kill ends one ready instance of web or bus, if another one is there.
func (w *world) kill() error {
	s, err := w.Status()
	if err != nil {
		return err
	}
	name := []string{"web", "bus"}[w.rand.IntN(2)]
	for _, v := range s.Services {
		if v.Name != name || v.Ready < 2 {
			continue
		}
		for _, i := range v.Instance {
			if i.State == "ready" && i.PID > 1 {
				w.mu.Lock()
				w.kills = append(w.kills, death{from: time.Now()})
				w.mu.Unlock()
				// One that is gone has just been killed, which nobody has noticed yet.
				if err := syscall.Kill(i.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return err
				}
				await.Until(w.T, "a killed instance has ended", func() bool { return !stage.Alive(i.PID) })
				w.mu.Lock()
				w.kills[len(w.kills)-1].to = time.Now()
				w.mu.Unlock()
				return nil
			}
		}
	}
	return nil
}

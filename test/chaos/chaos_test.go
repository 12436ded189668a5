package chaos

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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
		build := exec.Command("go", "build", "-ldflags", fmt.Sprintf("-X fairlead/internal/cli.Version=chaos-%d", i), "-o", programs[i], "fairlead/cmd/fairlead")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

const patience = time.Minute

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
	w.await()
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
	t             *testing.T
	rand          *mathrand.Rand
	dir           string
	plain, secure string
	roots         *x509.CertPool
	ca            *x509.Certificate
	caKey         *ecdsa.PrivateKey
	up            *exec.Cmd
	output        *bytes.Buffer
	ended         chan struct{}
	program       int // that runs
	edits         int
	replicas      int

	mu    sync.Mutex // guards the fields below
	does  string
	kills []time.Time
	ends  []span // changes that may end conversations
}

type span struct{ from, to time.Time }

func newWorld(t *testing.T, r *mathrand.Rand) *world {
	t.Helper()
	w := &world{t: t, rand: r, dir: t.TempDir(), plain: freeAddress(t), secure: freeAddress(t), output: &bytes.Buffer{}, ended: make(chan struct{}), replicas: 2}
	w.makeCA()
	w.makeCertificate()
	w.write()
	w.up = exec.Command(programs[0], "up", w.dir)
	w.up.Stdout, w.up.Stderr = w.output, w.output
	if err := w.up.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = w.up.Wait()
		close(w.ended)
	}()
	t.Cleanup(w.end)
	w.await()
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

// write writes the file as it should be now.
func (w *world) write() {
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	var more strings.Builder
	for i := range w.edits % 7 {
		fmt.Fprintf(&more, "  GET /edited%d/{id}: {service: web, headers: {answer: {X-Edit: \"%d\"}}}\n", i, w.edits)
	}
	text := fmt.Sprintf(`system: chaos
gateway:
  listen: [{address: %q, tls: false}, {address: %q}]
  tls: {certificate: cert.pem, key: key.pem}
  limits: {connections: 2000}
services:
  web: {command: [%q, part, web], replicas: %d, stop_grace_period: 5s}
  bus: {command: [%q, part, bus], replicas: 2, bus: {group: bus, answers: [bus.echo]}}
  live: {command: [%q, part, live], replicas: 2, update: {drain: 1s}}
routes:
  /web/: {service: web}
  /bus: {request: bus.echo, timeout: 5s}
  GET /ws: {service: live}
  GET /events: {service: live}
%s`, w.plain, w.secure, self, w.replicas, self, self, more.String())
	if err := os.WriteFile(filepath.Join(w.dir, "fairlead.yaml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) makeCA() {
	var err error
	if w.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chaos"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, w.caKey.Public(), w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.ca, err = x509.ParseCertificate(der); err != nil {
		w.t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.ca)
}

// makeCertificate replaces the door's certificate and key.
func (w *world) makeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 2, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, key.Public(), w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}, "cert.pem": {Type: "CERTIFICATE", Bytes: der}} {
		path := filepath.Join(w.dir, name)
		if err := errors.Join(os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600), os.Rename(path+".new", path)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// verb runs the command that belongs to the node that runs.
func (w *world) verb(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs[w.program], append([]string{"-C", w.dir, "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("fairlead %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return out, nil
}

type status struct {
	Version  string `json:"version"`
	Revision int    `json:"revision"`
	Services []struct {
		Name      string `json:"name"`
		Wanted    int    `json:"wanted"`
		Ready     int    `json:"ready"`
		Instances []struct {
			ID    string `json:"id"`
			State string `json:"state"`
			PID   int    `json:"pid"`
		} `json:"instances"`
	} `json:"services"`
}

func (w *world) status() (s status, err error) {
	out, err := w.verb("status")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(out, &s)
}

// await waits until every wanted instance is ready.
func (w *world) await() {
	w.t.Helper()
	var last error
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		select {
		case <-w.ended:
			w.t.Fatalf("up ended:\n%s", w.output)
		default:
		}
		s, err := w.status()
		last = err
		if err == nil && s.Revision > 0 && len(s.Services) == 3 {
			all := true
			for _, v := range s.Services {
				all = all && v.Ready == v.Wanted
			}
			if all {
				return
			}
			last = fmt.Errorf("%+v", s.Services)
		}
		select { // the verb itself is a condition that is asked for again
		case <-w.ended:
		case <-time.After(20 * time.Millisecond):
		}
	}
	w.t.Fatalf("not all is ready: %v", last)
}

func (w *world) end() {
	if _, err := w.verb("down"); err != nil {
		w.t.Errorf("down: %v", err)
		_ = w.up.Process.Signal(syscall.SIGINT)
	}
	select {
	case <-w.ended:
	case <-time.After(patience):
		_ = w.up.Process.Kill()
		w.t.Error("up did not end")
	}
	if w.t.Failed() {
		w.t.Logf("up wrote:\n%s", w.output)
	}
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

// killedWithin reports whether an instance was killed while a request was open.
func (w *world) killedWithin(from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kills {
		if k.After(from.Add(-50*time.Millisecond)) && k.Before(to) {
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
		return change{"restart " + name, func() error { _, err := w.verb("restart", name); return err }}
	}
	kinds := []change{
		// A former process ends conversations that are still open in good order after
		// its time for that, half a minute, at the latest when the next one retires.
		{"upgrade", func() error {
			return w.ending(40*time.Second, func() error {
				to := 1 - w.program
				if _, err := w.verb("upgrade", programs[to]); err != nil {
					return err
				}
				w.program = to
				s, err := w.status()
				if err == nil && !strings.HasSuffix(s.Version, fmt.Sprint("chaos-", to)) {
					err = fmt.Errorf("version %q runs after the upgrade to %d", s.Version, to)
				}
				return err
			})
		}},
		{"restart live", func() error {
			return w.ending(time.Second, func() error { _, err := w.verb("restart", "live"); return err })
		}},
		restart("web"), restart("bus"),
		{"reload routes", func() error {
			w.edits++
			w.write()
			_, err := w.verb("reload")
			return err
		}},
		{"kill", w.kill},
		{"certificate", func() error { w.makeCertificate(); return nil }},
		{"scale", func() error {
			_, err := w.verb("scale", "web", fmt.Sprint(1+w.rand.IntN(3)))
			return err
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
	s, err := w.status()
	if err != nil {
		return err
	}
	name := []string{"web", "bus"}[w.rand.IntN(2)]
	for _, v := range s.Services {
		if v.Name != name || v.Ready < 2 {
			continue
		}
		for _, i := range v.Instances {
			if i.State == "ready" && i.PID > 1 {
				w.mu.Lock()
				w.kills = append(w.kills, time.Now())
				w.mu.Unlock()
				return syscall.Kill(i.PID, syscall.SIGKILL)
			}
		}
	}
	return nil
}

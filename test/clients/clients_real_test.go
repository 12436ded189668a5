//go:build real

package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fairlead/internal/control"
	"fairlead/service"
	"fairlead/test/await"
	"fairlead/test/certificate"
	"fairlead/test/stage"
)

var program string

// TestMain builds the command. The test binary itself plays the service.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "echo" {
		service.Main(func(s *service.Service) error {
			service.Answer(s, "echo.say", func(_ context.Context, said json.RawMessage) (string, error) { return "echo", nil })
			return nil
		})
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "clients")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "fairlead")
	if err := stage.Build("-o", program, "fairlead/cmd/fairlead"); err != nil {
		panic(err)
	}
	return m.Run()
}

const file = `
system: clients
gateway:
  listen: "127.0.0.1:0"
  tls: {certificate: cert.pem, key: key.pem}
bus:
  outside: {listen: "OUTSIDE", certificate: cert.pem, key: key.pem}
  users:
    tower: {secret: TOWER, publishes: [data.vhf], subscribes: [data.vhf], asks: [echo.say]}
services:
  echo:
    command: [SELF, echo]
    bus: {group: echo, answers: ["echo.>"]}
queues: {data.vhf: {keep: 1h}}
routes:
  /nats: {nats: true}
secrets: {TOWER: {env: TOWER}}
`

// up runs the system and returns the address of its listener for clients outside.
func up(t *testing.T) (s *stage.System, outside string) {
	t.Helper()
	if _, err := os.Stat("node_modules"); err != nil {
		t.Fatal("node_modules is missing; run: npm ci --ignore-scripts")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	outside = "localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	s = stage.New(t, program, file, "OUTSIDE", "127.0.0.1"+strings.TrimPrefix(outside, "localhost"))
	certificate.Write(t, s.Dir)
	s.Start("TOWER=the-password-of-tower")
	s.Ready()
	return s, outside
}

// result is one line of the program.
type result struct {
	Connected bool    `json:"connected"`
	Refused   string  `json:"refused"`
	Stored    uint64  `json:"stored"`
	Stream    string  `json:"stream"`
	Back      bool    `json:"back"` // it had been cut, and has come back
	Missed    string  `json:"missed"`
	Heard     string  `json:"heard"`
	Sequence  string  `json:"sequence"`
	Answer    string  `json:"answer"`
	Consumed  string  `json:"consumed"`
	Denied    string  `json:"denied"`
	Allowed   string  `json:"allowed"`
	Closed    *string `json:"closed"`
}

// client runs the program and returns its results as they come.
func client(s *stage.System, way, server, user, password, inbox string, env ...string) <-chan result {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), 3*await.Patience)
	s.T.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "node", "client.mjs", way, server, s.Path("cert.pem"))
	cmd.Env = append(os.Environ(), append(env,
		"NATS_USER="+user, "NATS_PASSWORD="+password, "NATS_INBOX_PREFIX="+inbox, "NODE_EXTRA_CA_CERTS="+s.Path("cert.pem"))...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.T.Fatal(err)
	}
	results := make(chan result, 64)
	go func() {
		defer close(results)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var r result
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				s.T.Errorf("%s wrote %q", way, lines.Text())
				continue
			}
			s.T.Logf("%s: %s", way, lines.Text())
			results <- r
		}
		if err := cmd.Wait(); err != nil {
			s.T.Errorf("%s: %v", way, err)
		}
	}()
	return results
}

// check tells what a client that may do what tower may could and could not do.
func check(t *testing.T, results <-chan result) {
	t.Helper()
	var stored, heard, answered, consumed bool
	var denied []string
	for r := range results {
		switch {
		case r.Refused != "":
			t.Fatalf("it was refused: %s", r.Refused)
		case r.Stored > 0:
			stored = r.Stream == "data_vhf"
		case r.Heard != "":
			heard = r.Heard == `{"burst":"sb1"}` && r.Sequence != ""
		case r.Answer != "":
			answered = strings.Contains(r.Answer, "echo")
		case r.Consumed != "":
			consumed = r.Consumed == `{"burst":"sb1"}`
		case r.Allowed != "":
			t.Errorf("it may %s", r.Allowed)
		case r.Denied != "":
			denied = append(denied, r.Denied)
		}
	}
	if slices.Sort(denied); !stored || !heard || !answered || !consumed || len(denied) != 2 {
		t.Errorf("stored: %t, heard: %t, answered: %t, consumed: %t, denied: %v", stored, heard, answered, consumed, denied)
	}
}

func TestRealClientsFromOutside(t *testing.T) {
	s, outside := up(t)
	door := "wss" + strings.TrimPrefix(s.URL, "https") + "/nats"
	for _, way := range []struct{ name, server string }{
		{"tls", outside}, {"tls-first", outside}, {"old", outside}, {"websocket", door},
	} {
		t.Run(way.name, func(t *testing.T) {
			check(t, client(s, way.name, way.server, "tower", "the-password-of-tower", "_FL.user.tower"))
			for r := range client(s, way.name, way.server, "tower", "a-guess", "_FL.user.tower") {
				if r.Connected {
					t.Error("a wrong password was taken")
				}
			}
		})
	}
	if logged := s.Written() + s.Read(filepath.Join(control.DataDir, "logs", "fairlead.log")); strings.Contains(logged, "the-password") || strings.Contains(logged, "a-guess") {
		t.Error("a password was logged")
	}
}

func TestRealClientIsCutWhenRevoked(t *testing.T) {
	s, outside := up(t)
	door := "wss" + strings.TrimPrefix(s.URL, "https") + "/nats"
	for _, way := range []struct{ name, server string }{{"tls", outside}, {"websocket", door}} {
		t.Run(way.name, func(t *testing.T) {
			code, out := s.Command("bus", "user", "add", "ship", "--publish", "data.vhf", "--subscribe", "data.vhf", "--ask", "echo.say", "--expires", "1h", "--json")
			var c control.BusCredentials
			if err := json.Unmarshal([]byte(out), &c); code != 0 || err != nil {
				t.Fatalf("exit %d, %v: %s", code, err, out)
			}
			results := client(s, way.name, way.server, "ship", c.Password, c.InboxPrefix, "STAY=1")
			var denied int
			for r := range results {
				if r.Denied != "" {
					denied++
				}
				if denied == 2 {
					break
				}
			}
			if denied != 2 {
				t.Fatal("it did not come so far")
			}
			if code, out := s.Command("bus", "user", "revoke", "ship"); code != 0 || !strings.Contains(out, "1 connection") {
				t.Errorf("exit %d: %s", code, out)
			}
			var closed bool
			for r := range results {
				closed = closed || r.Closed != nil
			}
			if !closed {
				t.Error("it was not cut")
			}
		})
	}
}

func TestRealClientsComeBackAfterAnUpgrade(t *testing.T) {
	s, outside := up(t)
	door := "wss" + strings.TrimPrefix(s.URL, "https") + "/nats"
	for _, way := range []struct{ name, server string }{{"tls", outside}, {"websocket", door}} {
		t.Run(way.name, func(t *testing.T) {
			results := client(s, way.name, way.server, "tower", "the-password-of-tower", "_FL.user.tower", "RECONNECT=1")
			for r := range results {
				if r.Stored > 0 {
					break
				}
			}
			if code, out := s.Command("upgrade"); code != 0 {
				t.Fatalf("exit %d: %s", code, out)
			}
			var after int
			for r := range results {
				if r.Closed != nil && *r.Closed != "" {
					t.Errorf("it gave up: %s", *r.Closed)
				}
				if r.Back && r.Stored > 0 {
					after++
				}
			}
			if after == 0 {
				t.Error("it has stored nothing since")
			}
		})
	}
}

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/control"
	"fairlead/internal/supervise/process"
	"fairlead/internal/system"
)

// serveFake answers the verbs in the data folder of dir as a node would.
func serveFake(t *testing.T, dir string) {
	t.Helper()
	s, err := control.Listen(filepath.Join(dir, control.DataDir, control.SocketName), control.ServerOptions{Version: "0.0.9"})
	if err != nil {
		t.Fatal(err)
	}
	control.Handle(s, control.VerbStatus, func(context.Context, control.Empty, func(control.Event)) (control.Status, error) {
		st := commerceStatus()
		st.PID = os.Getpid()
		return st, nil
	})
	service := func(_ context.Context, req control.ServiceRequest, _ func(control.Event)) (control.ServiceStatus, error) {
		if req.Service != "auth" {
			return control.ServiceStatus{}, &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("there is no service %q", req.Service), Hint: "the services are auth"}
		}
		return control.ServiceStatus{Name: "auth", Wanted: 2, Ready: 2}, nil
	}
	control.Handle(s, control.VerbStart, service)
	control.Handle(s, control.VerbStop, service)
	control.Handle(s, control.VerbScale, func(_ context.Context, req control.ScaleRequest, _ func(control.Event)) (control.ServiceStatus, error) {
		return control.ServiceStatus{
			Name: req.Service, Wanted: req.Replicas, Ready: req.Replicas, Override: &control.Override{Replicas: req.Replicas, Since: noon},
			Traffic: &control.Traffic{Requests: 253, Stall: 12 * time.Millisecond, Connections: control.Carried{Before: 40, Kept: 39}, Tunnels: control.Carried{Before: 1, Kept: 1}},
		}, nil
	})
	control.Handle(s, control.VerbUpgrade, func(context.Context, control.UpgradeRequest, func(control.Event)) (control.UpgradeReply, error) {
		return control.UpgradeReply{
			PID: 4712, Version: "0.2.0", From: "0.1.0", Took: 2100 * time.Millisecond, NoBus: 20 * time.Millisecond, Held: 2050 * time.Millisecond,
			Missing: control.List[string]{"legacy-3"}, Finishing: control.Finishing{Connections: 12, Requests: 1, Tunnels: 2},
			Traffic: &control.Traffic{Requests: 4711, Stall: 2050 * time.Millisecond, Tunnels: control.Carried{Before: 2, Kept: 2}},
		}, nil
	})
	control.Handle(s, control.VerbRestart, func(_ context.Context, req control.ServiceRequest, tell func(control.Event)) (control.Receipt, error) {
		tell(control.Event{Time: noon, Kind: control.EventInfo, Text: "another change goes on; waiting for its end"})
		return control.Receipt{Service: req.Service, Old: []control.Served{{Requests: 5}}, New: []control.Served{{Requests: 6}}, Took: time.Second}, nil
	})
	control.Handle(s, control.VerbReload, func(_ context.Context, req control.ReloadRequest, _ func(control.Event)) (control.ReloadReply, error) {
		if req.Environment == "broken" {
			return control.ReloadReply{}, system.Findings{{File: "/srv/fairlead.yaml", Line: 1, Column: 2, Field: "system", Problem: "must be a name"}}
		}
		return control.ReloadReply{Changes: []control.Change{{Path: "services.auth.replicas", Kind: "changed", Old: "1", New: "2"}}}, nil
	})
	control.Handle(s, control.VerbRollback, func(_ context.Context, req control.RollbackRequest, _ func(control.Event)) (control.ReloadReply, error) {
		return control.ReloadReply{Revision: 20 + req.Revision}, nil
	})
	control.Handle(s, control.VerbRevisions, func(context.Context, control.Empty, func(control.Event)) ([]control.Revision, error) {
		return nil, nil
	})
	control.Handle(s, control.VerbMaintenance, func(_ context.Context, req control.MaintenanceRequest, _ func(control.Event)) ([]control.Maintenance, error) {
		list := []control.Maintenance{{Route: "GET /old", On: true}}
		if req.On {
			list = append(list, control.Maintenance{Route: req.Route, On: true, Text: req.Text, Allow: req.Allow, Since: noon})
		}
		return list, nil
	})
	control.Handle(s, control.VerbDown, func(context.Context, control.Empty, func(control.Event)) (control.DownReply, error) {
		return control.DownReply{Stopped: 5}, nil
	})
	control.Handle(s, control.VerbRequest, func(_ context.Context, req control.BusRequest, _ func(control.Event)) (control.BusReply, error) {
		switch req.Subject {
		case "echo":
			return control.BusReply{Data: req.Data}, nil
		case "header":
			return control.BusReply{Data: []byte(`"` + req.Headers["X-Name"] + `"`)}, nil
		default:
			return control.BusReply{Error: "no such flow", Code: "404", Data: []byte(`{"status":404}`)}, nil
		}
	})
	control.HandleStream(s, control.VerbLogs, func(_ context.Context, req control.LogsRequest, emit func(control.Line) error) error {
		for i := range req.Tail {
			if req.Service == "" {
				req.Service = "any"
			}
			if err := emit(control.Line{Time: noon, Instance: req.Service + "-1", Stream: "out", Text: fmt.Sprint("line ", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
}

// run runs the command and returns what it wrote, as a transcript.
func run(t *testing.T, in string, args ...string) (transcript string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	a := newApp(strings.NewReader(in), &out, &errs, func(string) string { return "" })
	a.now = func() time.Time { return noon }
	code = a.main(args)
	transcript = fmt.Sprintf("$ fairlead %s\n%s", strings.Join(args, " "), out.String())
	if errs.Len() > 0 {
		transcript += "-- standard error --\n" + errs.String()
	}
	return transcript + fmt.Sprintf("-- exit %d --\n", code), code
}

func TestVerbs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("system: commerce\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	serveFake(t, dir)
	sub := filepath.Join(dir, "services", "auth")
	if err := os.MkdirAll(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(sub) // the file is found upward
	groups := map[string][][]string{
		"verbs": {
			{"start", "auth"},
			{"stop", "auth"},
			{"stop", "--json", "auth"},
			{"scale", "auth", "4"},
			{"scale", "auth", "4", "--json"},
			{"restart", "auth"},
			{"restart", "auth", "--json"},
			{"upgrade"},
			{"upgrade", "--json"},
			{"reload", "--dry-run"},
			{"reload", "-e", "broken"},
			{"rollback"},
			{"rollback", "4"},
			{"down"},
			{"down", "--json"},
			{"down", "--data", filepath.Join(dir, "none")},
			{"down", "--data", filepath.Join(dir, "none"), "--json"},
			{"maintenance", "on", "--text", "back at 9", "--allow", "10.0.0.0/8,::1"},
			{"maintenance", "on", "--route", "POST /orders"},
			{"maintenance", "off"},
			{"maintenance", "off", "--json"},
			{"revisions", "--json"},
			{"help", "down"},
			{"logs", "-n", "1"},
			{"logs", "auth", "-n", "2"},
			{"logs", "auth", "-n", "1", "-t"},
			{"logs", "auth", "-n", "1", "--json"},
			{"request", "echo", `{"a":[1,2]}`},
			{"request", "echo", "-"},
			{"request", "echo", "not JSON"},
			{"request", "echo"},
			{"request", "header", "-H", "X-Name: value"},
			{"request", "flows.find"},
			{"request", "flows.find", "--json"},
			{"request", "echo", "{}", "--json"},
			{"status", "-C", dir, "--data", filepath.Join(dir, control.DataDir)},
		},
		"failures": {
			{"start", "apj"},
			{"start", "apj", "--json"},
			{"env", "auth"}, // the fake node is older and has no such verb
			{"status", "--data", "/nowhere"},
			{"status", "-C", "/nowhere"},
			{"status", "-C", "/"},
		},
		"usage": {
			{"statsu"},
			{"frobnicate"},
			{"status", "--jsn"},
			{"status", "--frobnicate"},
			{"status", "extra"},
			{"restart"},
			{"request"},
			{"rollback", "last"},
			{"scale", "auth"},
			{"scale", "auth", "65"},
			{"scale", "auth", "two"},
			{"maintenance"},
			{"maintenance", "of"},
			{"maintenance", "off", "--text", "x"},
			{"request", "echo", "-H", "nonsense"},
			{"up", "a", "b"},
			{"up", "a", "-C", "b"},
			{"logs", "auth", "-n", "many"},
			{"statsu", "--json"},
			{"ps"},
			{"log", "auth"},
			{"re"},
			{"help", "nope"},
			{"help", "ps"},
			{"logs", "auth", "-n"},
			{"request", "echo", "--timeout", "x"},
			{"up", "--listen", "foo"},
			{"up", "--listen", "8080"},
			{"up", "--listen", "127.0.0.1:99999"},
			{"check", "."},
			{"check", "-C", "..", "--data", "/nowhere"},
			{"status", "-C", "."},
		},
	}
	for name, list := range groups {
		t.Run(name, func(t *testing.T) {
			var all strings.Builder
			for _, args := range list {
				text, code := run(t, " [3] ", args...)
				all.WriteString(text)
				if name == "usage" && code != exitUsage {
					t.Errorf("%v: exit code %d", args, code)
				}
			}
			golden(t, name, strings.NewReplacer(dir, "/srv/commerce", fmt.Sprint("process ", os.Getpid()), "process PID").Replace(all.String()))
		})
	}
}

func TestVersionFlag(t *testing.T) {
	flag, code := run(t, "", "--version")
	if verb, _ := run(t, "", "version"); code != exitDone || !strings.Contains(flag, "fairlead "+Version+" (go") || strings.Replace(flag, "--", "", 1) != verb {
		t.Error(flag)
	}
}

// TestStatusWhileItStops is about a system whose node takes verbs.
func TestStatusWhileItStops(t *testing.T) {
	st := commerceStatus()
	st.Phase = control.PhaseStopping
	if head := renderStatus(plainScreen(0), st, noon)[0]; head != "commerce (production)  stopping, revision 12, up 2d2h" {
		t.Error(head)
	}
	st.Services = nil
	if lines := renderStatus(plainScreen(0), st, noon); lines[len(lines)-1] != "stopping: no service runs any more" {
		t.Error(lines)
	}
}

// TestBetween is about a node that holds the data folder, but takes no verbs.
func TestBetween(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, control.DataDir)
	if err := os.MkdirAll(filepath.Join(data, "logs", "auth"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("system: commerce\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	hold := func(address string) {
		t.Helper()
		stat, err := process.Read(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		boot, err := process.BootID()
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(`{"pid":%d,"start":%d,"boot":%q,"address":%q}`, os.Getpid(), stat.Start, boot, address)
		if err := os.WriteFile(filepath.Join(data, "lock"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hold("")
	if text, code := run(t, "", "status"); code != exitFailed || !strings.Contains(text, "start it with: fairlead up") {
		t.Error(text) // the lock was left, nobody has it
	}
	f, err := os.Open(filepath.Join(data, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if text, code := run(t, "", "status"); code != exitFailed || !strings.Contains(text, "it is just starting: process ") {
		t.Error(text)
	}
	hold("http://127.0.0.1:3005")
	if text, code := run(t, "", "status"); code != exitFailed || !strings.Contains(text, "it is stopping: process ") {
		t.Error(text)
	}
	if text, code := run(t, "", "down"); code != exitDone || !strings.Contains(text, "stopped; somebody else had asked for it") {
		t.Error(text)
	}
	if text, code := run(t, "", "logs", "nope"); code != exitFailed || !strings.Contains(text, `there is no output of a service "nope"`) || !strings.Contains(text, "there is some of auth") {
		t.Error(text)
	}
}

// TestLogsWithoutANode reads the files.
func TestLogsWithoutANode(t *testing.T) {
	dir := t.TempDir()
	logs := filepath.Join(dir, control.DataDir, "logs", "auth")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(dir, fileName):             "system: commerce\n",
		filepath.Join(logs, "auth-1.000001.log"): "2026-05-04T12:00:00.000000000Z out started\n2026-05-04T12:00:01.000000000Z err ended\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, args := range [][]string{{"logs"}, {"logs", "auth"}, {"logs", "-i", "auth-1"}} {
		if text, code := run(t, "", args...); code != exitDone || !strings.Contains(text, "auth-1 | started\nauth-1 ! ended\n") {
			t.Error(text)
		}
	}
	for _, args := range [][]string{{"logs", "auth", "-i", "nope"}, {"logs", "-i", "nope"}} {
		if text, code := run(t, "", args...); code != exitFailed || !strings.Contains(text, `there is no output of an instance "nope"`) {
			t.Error(text)
		}
	}
	if text, code := run(t, "", "logs", "-f"); code != exitFailed || !strings.Contains(text, "no fairlead runs for") {
		t.Error(text)
	}
}

func TestDataTooLarge(t *testing.T) {
	text, code := run(t, strings.Repeat("x", maxData+1), "request", "a", "-")
	if code != exitUsage || !strings.Contains(text, "the data is above 764 KiB") {
		t.Error(text)
	}
}

// TestHelp makes sure that every verb explains itself, with an example.
func TestHelp(t *testing.T) {
	a := newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}, func(string) string { return "" })
	for _, cmd := range a.root().Commands() {
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			continue
		}
		if cmd.Short == "" || cmd.Example == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short %q, example %q", cmd.Name(), cmd.Short, cmd.Example)
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len(line) > 90 {
				t.Errorf("%s: a line of help is %d columns wide: %s", cmd.Name(), len(line), line)
			}
		}
	}
	text, code := run(t, "")
	if code != exitDone {
		t.Errorf("exit code %d", code)
	}
	golden(t, "help", text)
}

// Package stage runs systems with the fairlead command as users have it, for the
// tests that look at it from outside: through the door, the verbs and the process
// table.
//
// A [System] ends with its test, which fails if anything of it is left.
package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/test/await"
)

// Build runs `go build` with some arguments.
func Build(args ...string) error {
	if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// System is a folder with a system in it, which may run.
type System struct {
	T       *testing.T
	Program string // the fairlead command
	Dir     string
	URL     string // of the door, once Ready has returned

	Up    *exec.Cmd     // the process that was started first; nil: it does not run
	Ended chan struct{} // closed when Up has ended

	output string // path of the file that Up writes to
}

// New makes a folder with the text as its fairlead.yaml. In the text, SELF stands
// for the test binary, DIR for the folder; replace lists more pairs. Its end is
// registered as the test's cleanup.
func New(t *testing.T, program, text string, replace ...string) *System {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &System{T: t, Program: program, Dir: t.TempDir(), output: filepath.Join(t.TempDir(), "up.txt")}
	s.Write("fairlead.yaml", strings.NewReplacer(append(replace, "SELF", self, "DIR", s.Dir)...).Replace(text))
	t.Cleanup(s.End)
	return s
}

// Path is that of a file of the folder.
func (s *System) Path(name string) string { return filepath.Join(s.Dir, name) }

// Write writes a file of the folder.
func (s *System) Write(name, text string) {
	s.T.Helper()
	if err := os.WriteFile(s.Path(name), []byte(text), 0o600); err != nil {
		s.T.Fatal(err)
	}
}

// Read reads a file of the folder.
func (s *System) Read(name string) string {
	s.T.Helper()
	b, err := os.ReadFile(s.Path(name))
	if err != nil {
		s.T.Fatal(err)
	}
	return string(b)
}

// Start runs `fairlead up`, with more variables in its environment, and does not
// wait for anything.
func (s *System) Start(env ...string) {
	s.T.Helper()
	// A file, no pipe: processes that take over write to it, too.
	output, err := os.OpenFile(s.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.T.Fatal(err)
	}
	defer output.Close()
	up := exec.Command(s.Program, "up", s.Dir)
	up.Env = append(os.Environ(), env...)
	up.Stdout, up.Stderr = output, output
	if err := up.Start(); err != nil {
		s.T.Fatal(err)
	}
	ended := make(chan struct{})
	s.Up, s.Ended = up, ended
	go func() { // the result of Wait is read only once ended is closed
		_ = up.Wait()
		close(ended)
	}()
}

// Written is what `fairlead up` has written, in all its runs.
func (s *System) Written() string {
	text, err := os.ReadFile(s.output)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Ready waits until every instance takes traffic.
func (s *System) Ready() (st control.Status) {
	s.T.Helper()
	await.Until(s.T, "all is ready", func() bool {
		var err error
		st, err = s.Status()
		select {
		case <-s.Ended: // unless it was taken over from
			if err != nil {
				s.T.Fatalf("up ended:\n%s", s.Written())
			}
		default:
		}
		if err != nil || st.Revision == 0 || st.Phase != control.PhaseRunning || len(st.Services) == 0 {
			return false
		}
		for _, v := range st.Services {
			if v.Ready != v.Wanted {
				return false
			}
		}
		return true
	})
	if s.URL != st.Address { // a load that runs reads it meanwhile
		s.URL = st.Address
	}
	return st
}

// Status asks the node that runs.
func (s *System) Status() (control.Status, error) {
	return Call[control.Empty, control.Status](s, control.VerbStatus, control.Empty{})
}

// Service returns the state of one service.
func (s *System) Service(name string) control.ServiceStatus {
	s.T.Helper()
	st, err := s.Status()
	if err != nil {
		s.T.Fatal(err)
	}
	for _, v := range st.Services {
		if v.Name == name {
			return v
		}
	}
	s.T.Fatalf("there is no service %s", name)
	return control.ServiceStatus{}
}

// Call calls a verb as the command does.
func Call[Req, Rep any](s *System, verb string, req Req) (Rep, error) {
	var none Rep
	c, err := control.Dial(s.Path(control.DataDir))
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*await.Patience)
	defer cancel()
	return control.Call[Req, Rep](ctx, c, verb, req, func(control.Event) {})
}

// Command runs a verb of the command and returns its exit code and output.
func (s *System) Command(args ...string) (int, string) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.T.Context()), 2*await.Patience) // a cleanup runs verbs, too
	defer cancel()
	out, err := exec.CommandContext(ctx, s.Program, append([]string{"-C", s.Dir}, args...)...).CombinedOutput()
	if err == nil {
		return 0, string(out)
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		s.T.Fatal(err)
	}
	return exit.ExitCode(), string(out)
}

// Wait waits until `fairlead up` has ended and returns its exit code.
func (s *System) Wait() int {
	s.T.Helper()
	select {
	case <-s.Ended:
	case <-time.After(await.Patience):
		s.T.Fatalf("up does not end:\n%s", s.Written())
	}
	code := s.Up.ProcessState.ExitCode()
	s.Up = nil
	return code
}

// Kill sends SIGKILL to the process that was started first and waits for its end.
func (s *System) Kill() {
	s.T.Helper()
	_ = s.Up.Process.Kill() // it may just have ended
	s.Wait()
}

// End stops what still runs, and checks that nothing is left.
func (s *System) End() {
	if s.Up != nil {
		_ = s.Up.Process.Signal(syscall.SIGTERM) // as above
		select {
		case <-s.Ended:
		case <-time.After(await.Patience):
			_ = s.Up.Process.Kill() // as above
			<-s.Ended
			s.T.Error("up did not end when asked to")
		}
	}
	s.NothingLeft()
	if s.T.Failed() {
		s.T.Logf("up wrote:\n%s", s.Written())
		if log, err := os.ReadFile(s.Path(filepath.Join(control.DataDir, "logs", "fairlead.log"))); err == nil {
			s.T.Logf("fairlead.log ends with:\n%s", log[max(0, len(log)-4000):])
		}
	}
}

// NothingLeft checks that no process of the system is left once `fairlead up` has
// ended.
func (s *System) NothingLeft() {
	s.T.Helper()
	left := s.Processes()
	if len(left) == 0 {
		return
	}
	s.T.Errorf("processes are left: %v", left)
	for pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL) // as above
	}
}

// Alive reports whether a process is there and no zombie.
func Alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, after, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

// Processes returns those that live and whose environment or arguments name the
// folder, with their arguments.
func (s *System) Processes() map[int]string {
	found := map[int]string{}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		s.T.Fatal(err)
	}
	for _, dir := range all {
		env, _ := os.ReadFile(dir + "/environ") // it may just have ended
		args, _ := os.ReadFile(dir + "/cmdline")
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && bytes.Contains(append(env, args...), []byte(s.Dir)) {
			found[pid] = string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
		}
	}
	return found
}

// Package script_test runs the fairlead command as a person would: real systems
// of small services, in scripts under testdata.
package script_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"fairlead/internal/cli"
	"fairlead/test/await"
)

func TestMain(m *testing.M) {
	// A node starts its keeper as the program that it is itself: this one.
	if len(os.Args) > 1 && os.Args[1] == "keeper" {
		os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"fairlead": func() { os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) },
		"svc":      func() { os.Exit(svc(os.Args[1:])) },
	})
}

// svc is a service of the systems in the scripts:
//
//	svc web [TEXT]  answers every HTTP request with TEXT and its instance
//	svc exit CODE   says why and exits
//	svc hang        does nothing
//	svc deaf        does nothing, and does not end when asked to
func svc(args []string) int {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	switch args[0] {
	case "exit":
		code, err := strconv.Atoi(args[1])
		if err != nil {
			return 99
		}
		fmt.Fprintln(os.Stderr, "no configuration")
		return code
	case "deaf":
		for range asked {
		}
	case "hang":
		<-asked
	case "web":
		text := strings.Join(args[1:], " ")
		fmt.Println("listening as", os.Getenv("FAIRLEAD_INSTANCE"))
		server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s from %s\n", text, r.URL.Path, os.Getenv("FAIRLEAD_INSTANCE"))
		})}
		ln, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() {
			<-asked
			_ = server.Shutdown(context.Background())
		}()
		_ = server.Serve(ln)
	}
	return 0
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": untilShown, "get": get, "occupy": occupy, "nobody": nobody, "apart": apart,
		},
	})
}

// untilShown is the command await PATTERN COMMAND...: it runs a command again and again until what it writes
// matches.
func untilShown(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await pattern command...")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var out string
	if !await.Condition(func() bool {
		_ = ts.Exec(args[1], args[2:]...)
		out = ts.ReadFile("stdout") + ts.ReadFile("stderr")
		return re.MatchString(out)
	}) {
		ts.Fatalf("%v never showed %q, at last:\n%s", args[1:], args[0], out)
	}
}

// apart lets the time pass after which a second signal is not the first one
// passed on by a wrapper.
func apart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: apart")
	}
	time.Sleep(150 * time.Millisecond)
}

// get PATH PATTERN asks the door of the system in the working folder until the
// answer, status and body, matches.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get path pattern")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	ts.Check(ts.Exec("fairlead", "status", "--json"))
	var st struct{ Address string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &st))
	client := &http.Client{Timeout: await.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	var got string
	if !await.Condition(func() bool {
		resp, err := client.Get(st.Address + args[0])
		if err != nil {
			got = err.Error()
			return false
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		got = fmt.Sprintf("%d %s", resp.StatusCode, body)
		return err == nil && re.MatchString(got)
	}) {
		ts.Fatalf("GET %s never gave %q, at last: %s", args[0], args[1], got)
	}
}

// occupy NAME listens on a port of the loopback until the script ends, and
// leaves the address in the variable NAME.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy name")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
	ts.Setenv(args[0]+"_PID", strconv.Itoa(os.Getpid()))
}

// nobody checks that no process of the script's systems is left: one whose
// environment or arguments name its folder.
func nobody(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: nobody")
	}
	var left []string
	if !await.Condition(func() bool {
		left = nil
		all, err := filepath.Glob("/proc/[0-9]*")
		ts.Check(err)
		for _, dir := range all {
			env, _ := os.ReadFile(dir + "/environ")
			cmd, _ := os.ReadFile(dir + "/cmdline")
			if bytes.Contains(env, []byte(ts.Getenv("WORK"))) || bytes.Contains(cmd, []byte(ts.Getenv("WORK"))) {
				left = append(left, dir+" "+string(bytes.ReplaceAll(cmd, []byte{0}, []byte(" "))))
			}
		}
		return len(left) == 0
	}) {
		ts.Fatalf("processes are left behind:\n%s", strings.Join(left, "\n"))
	}
}

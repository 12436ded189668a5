//go:build real

package listen

import (
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/system"
)

// known are the cases of h2spec that do not pass, each with its reason. A case that
// begins to pass has to leave the list.
var known = map[string]map[string]string{
	"tls": {
		"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                            hangsUp,
		"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                       answers400,
		"http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": answers400,
	},
	"h2c": {
		"http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                            hangsUp,
		"http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field":                       answers400,
		"http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": answers400,
		"http2/3.5: Sends invalid connection preface":                                                                   "without its preface it is a malformed request of HTTP/1.1, which shares the port, and is answered as such",
	},
}

const (
	hangsUp    = "x/net closes a connection whose SETTINGS frame says something twice: no client does, but floods do"
	answers400 = "x/net answers 400 instead of resetting the stream; no handler sees the request"
)

// TestRealH2Spec runs h2spec (go install github.com/summerwind/h2spec/cmd/h2spec@latest)
// against a listener, with TLS and without.
func TestRealH2Spec(t *testing.T) {
	program := h2spec(t)
	d := newDoors(t, func(Info) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				panic(http.ErrAbortHandler) // as a proxy does
			}
			// More than a connection's first window: streams stay open until it grows.
			_, _ = w.Write(make([]byte, 128<<10))
		})
	}, Options{})
	d.listen(secure(), system.Listener{Address: "127.0.0.1:0", HTTP2: true})
	for i, name := range []string{"tls", "h2c"} {
		t.Run(name, func(t *testing.T) {
			host, port, err := net.SplitHostPort(d.at(i))
			if err != nil {
				t.Fatal(err)
			}
			report := filepath.Join(t.TempDir(), "report.xml")
			args := []string{"--host", host, "--port", port, "--timeout", "2", "--junit-report", report}
			if name == "tls" {
				args = append(args, "--tls", "--insecure")
			}
			out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
			if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
				t.Fatalf("run h2spec: %v\n%s", err, out)
			}
			passed, failed := readReport(t, report)
			if len(passed) < 140 {
				t.Errorf("only %d cases passed:\n%s", len(passed), out)
			}
			for id, why := range failed {
				if known[name][id] == "" {
					t.Errorf("%s failed: %s", id, why)
				}
			}
			for id := range known[name] {
				if passed[id] {
					t.Errorf("%s passes now: take it out of the list", id)
				}
				if _, ok := failed[id]; !ok && !passed[id] {
					t.Errorf("%s is no case of h2spec", id)
				}
			}
		})
	}
}

// h2spec finds the program.
func h2spec(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("GOBIN"); bin != "" {
		if path := filepath.Join(bin, "h2spec"); exec.Command(path, "--version").Run() == nil {
			return path
		}
	}
	path, err := exec.LookPath("h2spec")
	if err != nil {
		t.Fatalf("h2spec is missing: %v", err)
	}
	return path
}

// readReport returns the cases by "package: text".
func readReport(t *testing.T, path string) (passed map[string]bool, failed map[string]string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Package string `xml:"package,attr"`
				Class   string `xml:"classname,attr"`
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
				Error *struct {
					Text string `xml:",chardata"`
				} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	passed, failed = map[string]bool{}, map[string]string{}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			id := c.Package + ": " + c.Class
			switch {
			case c.Failure != nil:
				failed[id] = strings.TrimSpace(c.Failure.Text)
			case c.Error != nil:
				failed[id] = strings.TrimSpace(c.Error.Text)
			case c.Skipped != nil:
				failed[id] = "skipped"
			default:
				passed[id] = true
			}
		}
	}
	return passed, failed
}

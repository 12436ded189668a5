// Package faults_test breaks running systems on purpose and looks at them as
// their users do: through the door, the verbs and the process table. README.md
// lists which fault is shown by which test, here and in the rooms.
package faults_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/test/await"
	"fairlead/test/stage"
)

// program and auth are the fairlead command and the commerce system's service
// that signs tokens, as users have them.
var program, auth string

// TestMain builds the programs. The test binary itself plays the services.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "part" {
		os.Exit(play(os.Args[2], os.Args[3:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fairlead-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, auth = filepath.Join(dir, "fairlead"), filepath.Join(dir, "auth")
	if err := stage.Build("-o", dir+"/", "fairlead/cmd/fairlead", "fairlead/stacks/commerce/services/auth"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Most of what these tests do is to wait. An explicit -parallel still counts.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// world is a system that is broken on purpose.
type world struct{ *stage.System }

// newWorld writes the system. In the text, SELF stands for the test binary, DIR
// for the folder, AUTH for the commerce system's auth.
func newWorld(t *testing.T, text string) *world {
	t.Helper()
	return &world{stage.New(t, program, text, "AUTH", auth)}
}

// answer is what the door said.
type answer struct {
	status int
	header http.Header
	body   string
	detail string // of a problem
	took   time.Duration
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

var client = &http.Client{Timeout: await.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// ask sends a request through the door; header lists names and values.
func (w *world) ask(method, path, body string, header ...string) answer {
	w.T.Helper()
	var reader io.Reader = http.NoBody
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, w.URL+path, reader)
	if err != nil {
		w.T.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		w.T.Errorf("%s %s: %v", method, path, err)
		return answer{}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.T.Errorf("%s %s: %v", method, path, err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(text), took: time.Since(begin)}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		var p struct {
			Detail string
			Status int
		}
		if err := json.Unmarshal(text, &p); err != nil || p.Status != a.status {
			w.T.Errorf("%s %s: the problem is %s", method, path, text)
		}
		a.detail = p.Detail
	}
	return a
}

// refused checks that an answer is a problem with that status and a text for a person.
func (a answer) refused(t *testing.T, status int, detail string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.detail, detail) || a.detail == "" {
		t.Errorf("the answer is %v, want %d with a problem that says %q", a, status, detail)
	}
}

// raw sends bytes to the door and returns all that it answers.
func (w *world) raw(t *testing.T, text string) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		t.Logf("the connection ended with %v", err)
	}
	return string(b)
}

// rawAnswer sends bytes to the door and reads one answer.
func (w *world) rawAnswer(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	got := w.raw(t, text)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
	if err != nil {
		t.Fatalf("the answer is %q: %v", got, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// containsAll reports whether every part is in s.
func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func contains(t *testing.T, what, s, part string) {
	t.Helper()
	if !strings.Contains(s, part) {
		t.Errorf("%s does not hold %q:\n%s", what, part, s)
	}
}

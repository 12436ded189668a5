// Package browser drives a headless Chromium, for the tests of pages: over the Chrome
// DevTools protocol, with what a person would see, in light and dark, wide and narrow.
//
// It is a test's: whatever goes wrong fails it, also that there is no Chromium.
package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"fairlead/test/stage"
)

const patience = 3 * time.Minute // for a slow machine

const chromium = "/usr/bin/chromium"

// Page is a tab of a headless Chromium, used over the Chrome DevTools protocol.
// Its methods are called from one goroutine.
type Page struct {
	conn    *websocket.Conn
	session string // of the tab
	calls   int
	answers chan reply

	mu     sync.Mutex // guards errors
	errors []string   // the console's
}

type reply struct {
	ID     int
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Open starts Chromium with an empty tab, and ends it at the end of the test.
func Open(t *testing.T) *Page {
	t.Helper()
	if _, err := os.Stat(chromium); err != nil {
		t.Fatalf("this test needs Chromium: %v", err)
	}
	cmd := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output := stage.NewRecorder(`(?m)^DevTools listening on (ws://\S+)`)
	cmd.Stderr = output // and not a file: Wait then ends when all its processes have
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Page{answers: make(chan reply)}
	t.Cleanup(func() {
		kill := time.AfterFunc(10*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer kill.Stop()
		if p.conn == nil || p.conn.Write(context.Background(), websocket.MessageText, []byte(`{"id":0,"method":"Browser.close"}`)) != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		_ = cmd.Wait()
	})
	select {
	case url := <-output.Found:
		conn, resp, err := websocket.Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body != nil {
			resp.Body.Close()
		}
		conn.SetReadLimit(64 << 20) // screenshots
		p.conn = conn
	case <-time.After(patience):
		t.Fatalf("Chromium does not start\n%s", output)
	}
	go p.read()
	var target struct{ TargetID, SessionID string }
	p.Call(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	p.Call(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	p.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		p.Call(t, domain+".enable", nil, nil)
	}
	return p
}

// read takes what the browser sends until it has closed.
func (p *Page) read() {
	defer close(p.answers)
	for {
		_, b, err := p.conn.Read(context.Background())
		if err != nil {
			return
		}
		var r reply
		if err := json.Unmarshal(b, &r); err != nil {
			return
		}
		switch r.Method {
		case "":
			if r.ID > 0 {
				p.answers <- r
			}
		case "Runtime.exceptionThrown":
			p.complain(r)
		case "Runtime.consoleAPICalled", "Log.entryAdded":
			var entry struct {
				Type  string
				Entry struct{ Level string }
			}
			if json.Unmarshal(r.Params, &entry) != nil || entry.Type == "error" || entry.Entry.Level == "error" {
				p.complain(r)
			}
		}
	}
}

func (p *Page) complain(r reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errors = append(p.errors, fmt.Sprintf("%s %s", r.Method, r.Params))
}

// Quiet fails if the console has errors, except those that hold the text: a
// response that is an error is one.
func (p *Page) Quiet(t *testing.T, except string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.errors {
		if except == "" || !strings.Contains(e, except) {
			t.Errorf("the console says: %s", e)
		}
	}
	p.errors = nil
}

var errProtocol = errors.New("the browser refuses")

func (p *Page) try(t *testing.T, method string, params, into any) error {
	t.Helper()
	p.calls++
	request := map[string]any{"id": p.calls, "method": method}
	if params != nil {
		request["params"] = params
	}
	if p.session != "" {
		request["sessionId"] = p.session
	}
	b, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.conn.Write(t.Context(), websocket.MessageText, b); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	select {
	case r, ok := <-p.answers:
		switch {
		case !ok || r.ID != p.calls:
			t.Fatalf("%s: the browser has closed", method)
		case r.Error != nil:
			return fmt.Errorf("%w %s: %s", errProtocol, method, r.Error.Message)
		case into != nil:
			return json.Unmarshal(r.Result, into)
		}
	case <-time.After(patience):
		t.Fatalf("%s: no answer", method)
	}
	return nil
}

// Call calls a method of the protocol and decodes its result.
func (p *Page) Call(t *testing.T, method string, params, into any) {
	t.Helper()
	if err := p.try(t, method, params, into); err != nil {
		t.Fatal(err)
	}
}

// JS evaluates an expression, waits for it if it is a promise, and decodes the value.
func (p *Page) JS(t *testing.T, expression string, into any) error {
	t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	err := p.try(t, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &r)
	switch {
	case err != nil:
		return err
	case r.ExceptionDetails != nil:
		return fmt.Errorf("%w %s: %s", errProtocol, expression, r.ExceptionDetails)
	case into != nil:
		return json.Unmarshal(r.Result.Value, into)
	}
	return nil
}

// Do runs a statement.
func (p *Page) Do(t *testing.T, statement string) {
	t.Helper()
	if err := p.JS(t, "void ("+statement+")", nil); err != nil {
		t.Fatal(err)
	}
}

// Until waits for a condition in the page, also across a navigation.
func (p *Page) Until(t *testing.T, condition string) {
	t.Helper()
	wait := fmt.Sprintf(`new Promise((done) => {
		const end = Date.now() + 1000;
		const look = () => { if (%s) done(true); else if (Date.now() > end) done(false); else requestAnimationFrame(look); };
		look();
	})`, condition)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var is bool
		// In the middle of a navigation there is nothing to evaluate in.
		if err := p.JS(t, wait, &is); err == nil && is {
			return
		}
	}
	var text string
	if err := p.JS(t, "document.body.innerText", &text); err != nil {
		t.Error(err)
	}
	t.Fatalf("never: %s\n%s", condition, text)
}

// Fill types a text into a field.
func (p *Page) Fill(t *testing.T, id, text string) {
	t.Helper()
	p.Do(t, fmt.Sprintf("document.getElementById(%q).value = '', document.getElementById(%[1]q).focus()", id))
	p.Call(t, "Input.insertText", map[string]any{"text": text}, nil)
}

// Shoot returns what the window shows, of what the test makes a file if it is asked to.
func (p *Page) Shoot(t *testing.T, name string) image.Image {
	t.Helper()
	var shot struct{ Data []byte }
	p.Call(t, "Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	if dir := os.Getenv("FAIRLEAD_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), shot.Data, 0o600); err != nil {
			t.Error(err)
		}
	}
	img, err := png.Decode(io.Reader(bytes.NewReader(shot.Data)))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Looks checks what is in the window in all sizes and both colour schemes.
func (p *Page) Looks(t *testing.T, name string) {
	t.Helper()
	for _, size := range [][2]int{{400, 800}, {1300, 900}} {
		for _, scheme := range []string{"light", "dark"} {
			p.View(t, size, scheme)
			var wide int
			if err := p.JS(t, "document.documentElement.scrollWidth - innerWidth", &wide); err != nil || wide > 0 {
				t.Errorf("%s at %d px: %d px too wide, %v", name, size[0], wide, err)
			}
			var narrow []string
			if err := p.JS(t, `[...document.querySelectorAll("tbody th")].filter((th) => th.clientWidth < 80).map((th) => th.textContent)`, &narrow); err != nil || len(narrow) > 0 {
				t.Errorf("%s at %d px: rows whose names have no room: %q, %v", name, size[0], narrow, err)
			}
			img := p.Shoot(t, fmt.Sprintf("%s-%d-%s", name, size[0], scheme))
			colours, most, back := counted(img)
			total := img.Bounds().Dx() * img.Bounds().Dy()
			if img.Bounds().Dx() != size[0] || colours < 20 || most > total*99/100 {
				t.Errorf("%s, %s: %v with %d colours, %d of %d pixels alike", name, scheme, img.Bounds(), colours, most, total)
			}
			if dark := color.GrayModel.Convert(back).(color.Gray).Y < 128; dark != (scheme == "dark") {
				t.Errorf("%s, %s: the background is %v", name, scheme, back)
			}
		}
	}
}

// View makes the window of a size, in pixels, and of a colour scheme, light or dark.
func (p *Page) View(t *testing.T, size [2]int, scheme string) {
	t.Helper()
	p.Call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": false}, nil)
	p.Call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	p.Until(t, fmt.Sprintf("innerWidth === %d && matchMedia('(prefers-color-scheme: %s)').matches", size[0], scheme))
}

// counted returns how many colours there are, and the most frequent one.
func counted(img image.Image) (colours, most int, colour color.Color) {
	n := map[color.Color]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			n[img.At(x, y)]++
		}
	}
	for c, count := range n {
		if count > most {
			most, colour = count, c
		}
	}
	return len(n), most, colour
}

//go:build real

package upgrade_test

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/test/await"
)

const page = `<!doctype html><meta charset="utf-8"><title>live</title>
<script type="module">
import {connect} from "/fairlead.js"
const report = (what, value) => fetch("/report", {method: "POST", body: JSON.stringify({what, value})}).catch(() => {})
const told = []
// Reports may be lost while the door is away: each says everything.
let pending = false
const tell = () => {
  if (pending) return
  pending = true
  setTimeout(() => { pending = false; report("told", told) }, 200)
}
connect("/live", {
  transport: "TRANSPORT" || undefined,
  onmessage: (m) => { told.push(m.data); tell() },
  ongap: () => report("gap", 0),
  onstate: (s) => report("state", s),
  onerror: (e) => report("error", String(e)),
})
setInterval(tell, 1000)
</script>`

// TestRealPageGoesOn opens a page with fairlead.js in Chromium, and has it go on through
// an upgrade and kill -9: by WebSockets, and by server-sent events.
func TestRealPageGoesOn(t *testing.T) {
	for name, transport := range map[string]string{"websocket": "", "events": "events"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &heard{name: name}
			w := newLive(t, func(_ http.ResponseWriter, r *http.Request) {
				var report struct {
					What  string
					Value json.RawMessage
				}
				if json.NewDecoder(r.Body).Decode(&report) != nil {
					return
				}
				h.mu.Lock()
				defer h.mu.Unlock()
				switch report.What {
				case "told":
					var told []int
					if json.Unmarshal(report.Value, &told) == nil && len(told) >= len(h.numbers) {
						h.numbers = told
					}
				case "gap":
					h.gaps++
				case "state":
					if string(report.Value) == `"open"` {
						h.links++
					}
				default:
					t.Errorf("the page reports %s %s", report.What, report.Value)
				}
			})
			w.Write("page/index.html", strings.Replace(page, "TRANSPORT", transport, 1))
			browse(t, w.URL+"/")
			links := func(n int) {
				t.Helper()
				await.Until(t, "the page is connected", func() bool {
					h.mu.Lock()
					defer h.mu.Unlock()
					return h.links >= n
				})
			}
			links(1)
			p := w.publish(5*time.Millisecond, "data.a", "data.b")
			if _, err := w.upgrade(two); err != nil {
				t.Fatal(err)
			}
			links(2)
			_ = syscall.Kill(w.Ready().PID, syscall.SIGKILL) // the stand-in ends with it
			w.Wait()
			await.Until(t, "nothing is left", func() bool { return len(w.Processes()) == 0 })
			w.start()
			links(3)
			last := p.end()
			problem := ""
			await.Until(t, "the page has been told everything", func() bool {
				problem = h.wrong(func(int) bool { return true }, last)
				return problem == ""
			})
			t.Logf("%d messages, %d connections", last, h.links)
		})
	}
}

// browse opens a page until the end of the test.
func browse(t *testing.T, url string) {
	t.Helper()
	cmd := exec.Command("/usr/bin/chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--user-data-dir="+t.TempDir(), url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("this test needs Chromium: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // it may have ended
		kill := time.AfterFunc(10*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer kill.Stop()
		_ = cmd.Wait()
	})
}

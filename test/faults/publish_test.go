package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"fairlead/test/await"
)

const publishing = `
system: publishing
gateway: {listen: "127.0.0.1:0"}
services: {idle: {command: sleep 1000}}
queues: {data.vhf: {type: Level}}
types: {Level: level.json}
routes:
  POST /plain: {publish: data.vhf}
  POST /keyed: {publish: data.vhf, dedupe: [body.level]}
`

// TestMessagesThatAreNotStored posts what a queue does not take, and the same twice.
func TestMessagesThatAreNotStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, publishing)
	w.Write("level.json", levels)
	w.Start()
	w.Ready()
	const json = "application/json"
	w.ask("POST", "/plain", `{"level": "x"}`, "Content-Type", json).refused(t, http.StatusUnprocessableEntity, "/level must be a whole number")
	w.ask("POST", "/plain", `{`, "Content-Type", json).refused(t, http.StatusUnprocessableEntity, "is no Level")
	w.ask("POST", "/keyed", `[]`, "Content-Type", json).refused(t, http.StatusUnprocessableEntity, "/level is missing")
	w.ask("POST", "/plain", `{"level": 1}`, "Content-Type", "text/plain").refused(t, http.StatusUnsupportedMediaType, "application/json")
	w.ask("GET", "/plain", "").refused(t, http.StatusMethodNotAllowed, "not allowed")
	for _, want := range []answer{
		{status: http.StatusAccepted, body: `{"stream":"data_vhf","sequence":2,"duplicate":false}`},
		{status: http.StatusAccepted, body: `{"stream":"data_vhf","sequence":2,"duplicate":true}`},
	} {
		if a := w.ask("POST", "/keyed", `{"level": 1}`, "Content-Type", json); a.status != want.status || strings.TrimSpace(a.body) != want.body {
			t.Errorf("answered %v, want %v", a, want)
		}
	}
}

const levels = `{"type": "object", "required": ["level"], "properties": {"level": {"type": "integer"}}}`

// kills is how often the node is killed while clients publish.
const kills = 10

// receipt is what the door answers to a message that is stored.
type receipt struct {
	Sequence  uint64
	Duplicate bool
}

// post publishes, and returns nil where the message was not acknowledged.
func post(ctx context.Context, client *http.Client, url, body string) *receipt {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(body))
	if err != nil {
		return nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var r receipt
	if err != nil || resp.StatusCode != http.StatusAccepted || json.Unmarshal(text, &r) != nil {
		return nil
	}
	return &r
}

// TestKilledWhileClientsPublishNoReceiptIsWrong kills the node under load, several
// times: each message that got 202 is in the queue, at its sequence, and those with
// keys once, however often their clients have sent them.
func TestKilledWhileClientsPublishNoReceiptIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, publishing)
	w.Write("level.json", levels)
	acked := map[uint64]string{} // sequence -> body
	var mu sync.Mutex            // guards acked
	level := 0
	for range kills {
		w.Start()
		w.Ready()
		ctx, stop := context.WithCancel(t.Context())
		fresh := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: await.Patience}
		count := 0
		var sending sync.WaitGroup
		for p := range 8 {
			path, from := "/plain", level
			if p%2 == 1 {
				path = "/keyed"
			}
			sending.Go(func() {
				for i := from + p; ctx.Err() == nil; i += 8 {
					body := fmt.Sprintf(`{"level":%d}`, i)
					times := 1 + p%2 // what has a key is sent twice
					for range times {
						if r := post(ctx, fresh, w.URL+path, body); r != nil {
							mu.Lock()
							if was, there := acked[r.Sequence]; there && was != body {
								t.Errorf("%s and %s are both at %d", was, body, r.Sequence)
							}
							acked[r.Sequence] = body
							count++
							mu.Unlock()
						}
					}
				}
			})
		}
		await.Until(t, "100 messages are acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return count >= 100
		})
		w.Kill()
		stop()
		sending.Wait()
		fresh.CloseIdleConnections()
		level += 1_000_000
	}
	w.Start()
	w.Ready()
	// What was sent last may be stored without a receipt: its client sends it again.
	stored := map[uint64]string{}
	times := map[string]int{}
	for from := 1; ; {
		code, out := w.Command("queue", "data.vhf", "peek", "--from", fmt.Sprint(from), "-n", "1000", "--json")
		if code != 0 {
			t.Fatalf("peek: %d %s", code, out)
		}
		var list struct {
			Messages []struct {
				Sequence uint64
				Data     json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("peek: %v of %s", err, out)
		}
		if len(list.Messages) == 0 {
			break
		}
		for _, m := range list.Messages {
			var body bytes.Buffer
			if err := json.Compact(&body, m.Data); err != nil {
				t.Fatalf("peek: %v of %s", err, m.Data)
			}
			stored[m.Sequence] = body.String()
			times[body.String()]++
			from = int(m.Sequence) + 1
		}
	}
	for sequence, body := range acked {
		if stored[sequence] != body {
			t.Errorf("%s was acknowledged as %d, where %q is", body, sequence, stored[sequence])
		}
	}
	for body, n := range times {
		if n > 1 {
			t.Errorf("%s is stored %d times", body, n)
		}
	}
	t.Logf("%d messages acknowledged, %d stored", len(acked), len(stored))
}

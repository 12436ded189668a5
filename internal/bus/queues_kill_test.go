package bus

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/system"
	"fairlead/test/await"
)

const (
	// burstDir names the store of the child process that publishes to a queue until it
	// is killed; burstRound counts the children.
	burstDir   = "FAIRLEAD_TEST_BURST_DIR"
	burstRound = "FAIRLEAD_TEST_BURST_ROUND"
	// bursts is how often one is killed.
	bursts = 20
	// roundSize keeps the numbers of rounds apart.
	roundSize = 1_000_000
)

// burst publishes numbers to a queue, eight at a time, among them what the queue
// refuses, and tells those that were acknowledged.
func burst(ctx context.Context, dir string) error {
	b, err := Open(ctx, Options{Dir: dir, System: "burst", Model: observatory(system.Queue{Name: "data.vhf", Type: "Level"})})
	if err != nil {
		return err
	}
	c, err := b.Issue("receiver", "receiver-1")
	if err != nil {
		return err
	}
	nc, err := nats.Connect(c.URL, nats.Timeout(await.Patience), nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(c.InboxPrefix))
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		return err
	}
	round, err := strconv.Atoi(os.Getenv(burstRound))
	if err != nil {
		return err
	}
	const publishers = 8
	failed := make(chan error, publishers)
	for p := range publishers {
		go func() {
			for i := p; ; i += publishers {
				n := round*roundSize + i
				if _, err := js.Publish(ctx, "data.vhf", fmt.Appendf(nil, `{"level": "%d"}`, n)); refusal(err) == nil {
					failed <- fmt.Errorf("a message of another type: %w", err)
					return
				}
				if _, err := js.Publish(ctx, "data.vhf", fmt.Appendf(nil, `{"level": %d}`, n)); err != nil {
					failed <- err
					return
				}
				fmt.Println(n)
			}
		}()
	}
	return <-failed
}

func TestKilledUnderLoadAQueueKeepsWhatItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range bursts {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), burstDir+"="+dir, fmt.Sprintf("%s=%d", burstRound, round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, told := bufio.NewScanner(out), 0
		for lines.Scan() { // to the end: what it told before it was killed counts
			acked[`{"level": `+lines.Text()+`}`] = true
			if told++; told == 10+3*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if told < 10+3*round {
			t.Fatalf("child %d ended after %d messages", round, told)
		}
	}
	b, err := Open(t.Context(), Options{Dir: dir, System: "burst", Model: observatory(system.Queue{Name: "data.vhf", Type: "Level"})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	stored, err := catalogue.Read(await.Context(t), b.catalogue.js, "data_vhf", ">", 1, roundSize)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, m := range stored {
		times[string(m.Data)]++
	}
	for data := range acked {
		if times[data] != 1 {
			t.Errorf("%s was acknowledged and is stored %d times", data, times[data])
		}
	}
	// At most one message of each publisher is stored and was not told.
	if most := len(acked) + bursts*8; len(stored) > most {
		t.Errorf("%d messages are stored of %d that were acknowledged, want at most %d", len(stored), len(acked), most)
	}
}

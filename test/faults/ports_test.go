package faults_test

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestPortInUse: who holds the port is said, and nothing is left of the attempt.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // after the parallel parts
	for room, text := range map[string]string{
		"gateway": `gateway: {listen: "ADDRESS"}`,
		"bus":     "gateway: {listen: \"127.0.0.1:0\"}\nbus: {listen: \"ADDRESS\"}",
	} {
		t.Run(room, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "system: crowded\n"+strings.ReplaceAll(text, "ADDRESS", l.Addr().String())+"\nservices: {flood: {command: [SELF, part, flood]}}\n")
			w.Start()
			if code := w.Wait(); code != 1 {
				t.Errorf("up ended with %d", code)
			}
			contains(t, "what up writes", w.Written(), l.Addr().String())
			contains(t, "what up writes", w.Written(), "process "+strconv.Itoa(os.Getpid()))
			w.NothingLeft()
			// The same folder serves as soon as the fault is gone.
			w.Write("fairlead.yaml", strings.ReplaceAll(w.Read("fairlead.yaml"), l.Addr().String(), "127.0.0.1:0"))
			w.Start()
			w.Ready()
		})
	}
}

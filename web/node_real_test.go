//go:build real

package web

import (
	"os/exec"
	"testing"
)

// TestRealNode runs the tests of fairlead.js.
func TestRealNode(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "node", "--test", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
}

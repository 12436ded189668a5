//go:build faults

package node

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// fault fails at the step that FAIRLEAD_FAULT names, as step=error, step=kill or
// step=hang. It is for tests of what an upgrade leaves behind.
func fault(step string) error {
	at, how, _ := strings.Cut(os.Getenv("FAIRLEAD_FAULT"), "=")
	if at != step {
		return nil
	}
	switch how {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "hang":
		select {}
	default:
		return errors.New("injected at " + step)
	}
}

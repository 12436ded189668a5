package await

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Goroutines runs the tests of a package and ends the process, as TestMain must. The
// run fails if a goroutine is left that does not end by itself in Patience, other than
// those that the options pass over. goleak's own main function gives them half a
// second.
func Goroutines(m *testing.M, passed ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		var left error
		if !Condition(func() bool { left = goleak.Find(passed...); return left == nil }) {
			fmt.Fprintf(os.Stderr, "goroutines are left behind: %v\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

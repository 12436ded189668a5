package node

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"fairlead/internal/control"
)

func TestEnvNamesExactlyWhatAnInstanceIsGiven(t *testing.T) {
	f := newFixture(t)
	n := f.up()
	reply := must[control.EnvReply](t)(verb[control.EnvReply](f, control.VerbEnv, control.ServiceRequest{Service: "echo"}))
	var said []string
	for _, v := range reply.Variables {
		said = append(said, v.Name)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", n.Status().Services[0].Instance[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	var given []string
	for pair := range strings.SplitSeq(strings.TrimSuffix(string(environ), "\x00"), "\x00") {
		name, _, _ := strings.Cut(pair, "=")
		given = append(given, name)
	}
	slices.Sort(given)
	if !slices.Equal(said, given) {
		t.Errorf("env says\n %v\nthe instance has\n %v", said, given)
	}
}

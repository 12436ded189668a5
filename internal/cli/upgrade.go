package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
)

func (a *app) upgradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade [BINARY]",
		Short: "Put another version of fairlead in charge, while the system runs",
		Long: `Starts BINARY (default: the fairlead that runs this command) and has it take over the
system that runs. The instances and their connections stay. The door goes on
accepting; requests over the bus wait until the services have connected to it again,
two seconds at most as a rule. What is open in the process before ends there, within
the services' drain times.

If the other version cannot take over, nothing changes, and it is said why.`,
		Example: `  fairlead upgrade
  fairlead upgrade /usr/local/bin/fairlead.new`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			binary, err := programOf(first(args))
			if err != nil {
				return err
			}
			r, err := ask[control.UpgradeRequest, control.UpgradeReply](cmd.Context(), a, control.VerbUpgrade, "upgrading", control.UpgradeRequest{Binary: binary})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			return a.out.lines(renderUpgrade(a.out, r)...)
		},
	}
}

// programOf returns the absolute path of a program, "" standing for this one. A name
// without a slash may be in the PATH.
func programOf(name string) (string, error) {
	if name == "" {
		path, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find this program: %w", err)
		}
		return path, nil
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		path, err = exec.LookPath("./" + name)
	}
	if err != nil {
		return "", &usageError{problem: name + " is no program that can be run", hint: "name the new fairlead, such as ./fairlead"}
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return path, nil
}

// renderUpgrade shows who runs the system now, and what its traffic felt of it.
func renderUpgrade(s *screen, r control.UpgradeReply) []string {
	lines := []string{fmt.Sprintf("%s: process %d, version %s, runs the system; %s did before", s.style(bold, "upgraded in "+took(r.Took)), r.PID, r.Version, r.From)}
	bus := fmt.Sprintf("%s: closed for %s", s.style(bold, "the bus"), took(r.NoBus))
	if r.Held >= time.Millisecond {
		bus += "; requests for it waited at most " + took(r.Held)
	}
	if len(r.Missing) > 0 {
		bus += "; " + s.style(red, "not back on it: "+strings.Join(r.Missing, ", "))
	}
	lines = append(withTraffic(s, lines, r.Traffic), bus)
	if f := r.Finishing; f.Connections > 0 {
		text := fmt.Sprintf("the process before finishes %s", plural(f.Connections, "connection"))
		if f.Tunnels > 0 {
			text += ", among them " + plural(f.Tunnels, "WebSocket")
		}
		lines = append(lines, text)
	}
	return lines
}

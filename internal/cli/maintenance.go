package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
)

func (a *app) maintenanceCommand() *cobra.Command {
	var req control.MaintenanceRequest
	cmd := &cobra.Command{
		Use:   "maintenance on|off",
		Short: "Close the door or a route for maintenance, or open it",
		Long: `"on" answers every request 503 with a text, for the whole door or one route; what is
open goes on, and monitors stay reachable. Clients in --allow are let through. "off"
takes it back; where the file itself says maintenance, it opens against the file.
This is recorded: it stays so, also through "down" and "up", until the opposite is
asked for, or until the file changes its own maintenance there.`,
		Example: `  fairlead maintenance on --text "back at 9" --allow 10.0.0.0/8
  fairlead maintenance on --route "POST /orders"
  fairlead maintenance off`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "on":
				req.On = true
			case "off":
				if req.Text != "" || len(req.Allow) > 0 {
					return &usageError{problem: "--text and --allow go with on", hint: "fairlead maintenance off [--route ROUTE]"}
				}
			default:
				return &usageError{problem: fmt.Sprintf("maintenance is on or off, not %q", args[0]), hint: "fairlead maintenance on"}
			}
			list, err := ask[control.MaintenanceRequest, []control.Maintenance](cmd.Context(), a, control.VerbMaintenance, "maintenance "+args[0], req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(list)
			}
			return a.out.lines(renderMaintenance(req, list)...)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Route, "route", "", "one route, as the file writes it, instead of the whole door")
	flags.StringVar(&req.Text, "text", "", "what clients are told")
	flags.StringSliceVar(&req.Allow, "allow", nil, "address or network that is let through; may be given again")
	return cmd
}

// renderMaintenance says what became of a request, and what is closed besides.
func renderMaintenance(req control.MaintenanceRequest, list []control.Maintenance) []string {
	state := "open"
	if req.On {
		state = "closed for maintenance; it stays so until: fairlead maintenance off" + routeFlag(req.Route)
	}
	lines := []string{place(req.Route) + ": " + state}
	for _, m := range list {
		if m.On && m.Route != req.Route {
			lines = append(lines, place(m.Route)+": closed for maintenance, too")
		}
	}
	return lines
}

// maintenanceNote is the line of the status.
func maintenanceNote(m control.Maintenance, now time.Time) string {
	what, undo := "open, although the file says maintenance", "on"
	if m.On {
		what, undo = "closed for maintenance", "off"
		if m.Text != "" {
			what += fmt.Sprintf(" (%q)", m.Text)
		}
		if len(m.Allow) > 0 {
			what += ", but for " + strings.Join(m.Allow, ", ")
		}
	}
	if m.Since.IsZero() {
		return fmt.Sprintf("%s: %s, as the file says", place(m.Route), what)
	}
	return fmt.Sprintf("%s: %s, by hand %s ago; undo with: fairlead maintenance %s%s", place(m.Route), what, ago(now.Sub(m.Since)), undo, routeFlag(m.Route))
}

func place(route string) string {
	if route == "" {
		return "door"
	}
	return harmless(route, false)
}

func routeFlag(route string) string {
	if route == "" {
		return ""
	}
	return fmt.Sprintf(" --route %q", route)
}

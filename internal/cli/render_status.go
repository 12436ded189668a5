package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/control"
)

// stateColors are the colours of an instance's states.
var stateColors = map[string]color{
	"starting": yellow, "ready": green, "draining": yellow, "stopped": dim, "backoff": red, "failed": red, "down": red,
}

// statusColumn is a column of the table of instances. The narrower the terminal,
// the more columns are left out, those with the greatest rank first.
type statusColumn struct {
	name string
	rank int
	cell func(s *screen, svc control.ServiceStatus, i control.InstanceStatus, now time.Time) string
}

var statusColumns = []statusColumn{
	{"INSTANCE", 0, func(_ *screen, svc control.ServiceStatus, i control.InstanceStatus, _ time.Time) string {
		// Beside the service's column the number says it all, but the whole is what
		// other verbs take and logs show.
		return i.ID
	}},
	{"STATE", 0, func(s *screen, _ control.ServiceStatus, i control.InstanceStatus, _ time.Time) string {
		return s.style(stateColors[i.State], i.State)
	}},
	{"SINCE", 1, func(_ *screen, _ control.ServiceStatus, i control.InstanceStatus, now time.Time) string {
		return ago(now.Sub(i.Since))
	}},
	{"REVISION", 4, func(_ *screen, _ control.ServiceStatus, i control.InstanceStatus, _ time.Time) string {
		if i.Revision == 0 { // something else runs it
			return "-"
		}
		return strconv.Itoa(i.Revision)
	}},
	{"RESTARTS", 3, func(_ *screen, _ control.ServiceStatus, i control.InstanceStatus, _ time.Time) string {
		return strconv.Itoa(i.Restarts)
	}},
	{"REQUESTS", 2, func(_ *screen, _ control.ServiceStatus, i control.InstanceStatus, _ time.Time) string {
		return strconv.FormatUint(i.Requests, 10)
	}},
	{"PID", 5, func(_ *screen, _ control.ServiceStatus, i control.InstanceStatus, _ time.Time) string {
		if i.PID == 0 {
			return "-"
		}
		return strconv.Itoa(i.PID)
	}},
}

// renderStatus shows the state of the system as lines.
func renderStatus(s *screen, st control.Status, now time.Time) []string {
	lines := []string{s.style(bold, st.System) + statusHead(st, now)}
	lines = append(lines, "door "+st.Address+"   bus "+st.Bus+"   process "+strconv.Itoa(st.PID))
	if st.BusOutside != "" {
		lines = append(lines, "users of the bus come in at tls://"+st.BusOutside)
	}
	if st.BusStore != "" {
		lines = append(lines, "queues and state on "+st.BusStore)
	}
	if st.BusFault != "" {
		lines = append(lines, wrap("nothing can be stored: "+st.BusFault, max(s.columns(), 30))...)
	}
	if len(st.Listening) > 1 {
		lines = append(lines, wrap("also "+strings.Join(st.Listening[1:], ", "), max(s.columns(), 30))...)
	}
	if len(st.Services) == 0 {
		if st.Phase == control.PhaseStopping {
			return append(lines, "", "stopping: no service runs any more")
		}
		return append(lines, "", "still starting: no service runs yet")
	}
	columns := s.columns()
	for _, m := range st.Maintenance {
		lines = append(lines, wrap(maintenanceNote(m, now), max(columns, 30))...)
	}
	lines = append(lines, "")
	for rank := 6; ; rank-- {
		rows, notes := statusRows(s, st, now, rank)
		laid := table(rows)
		if rank > 1 && widest(laid) > columns {
			continue
		}
		for i, l := range laid {
			lines = append(lines, l)
			for _, note := range notes[i] {
				for _, part := range wrap(note, max(columns-4, 30)) {
					lines = append(lines, "    "+part)
				}
			}
		}
		return append(lines, certificateLines(s, st, now)...)
	}
}

func statusHead(st control.Status, now time.Time) string {
	head := ""
	if st.Environment != "" {
		head += " (" + st.Environment + ")"
	}
	state := ""
	if st.Phase == control.PhaseStopping {
		state = "stopping, "
	}
	return head + fmt.Sprintf("  "+state+"revision %d, up %s", st.Revision, ago(now.Sub(st.Started)))
}

func widest(lines []string) int {
	most := 0
	for _, l := range lines {
		most = max(most, width(l))
	}
	return most
}

// statusRows returns the table without the columns of rank or above, and the
// notes that stand below each row.
func statusRows(s *screen, st control.Status, now time.Time, rank int) (rows [][]string, notes map[int][]string) {
	notes = map[int][]string{}
	head := []string{"SERVICE", "READY"}
	for _, c := range statusColumns {
		if c.rank < rank {
			head = append(head, c.name)
		}
	}
	for i, h := range head {
		head[i] = s.style(dim, h)
	}
	rows = append(rows, head)
	for _, svc := range st.Services {
		ready := fmt.Sprintf("%d/%d", svc.Ready, svc.Wanted)
		if svc.Ready < svc.Wanted {
			ready = s.style(red, ready)
		}
		row := []string{svc.Name, ready}
		for _, i := range svc.Instance {
			for _, c := range statusColumns {
				if c.rank < rank {
					row = append(row, c.cell(s, svc, i, now))
				}
			}
			rows = append(rows, row)
			if i.Reason != "" && i.State != "ready" {
				notes[len(rows)-1] = append(notes[len(rows)-1], harmless(i.Reason, false))
			}
			row = []string{"", ""}
		}
		if len(svc.Instance) == 0 {
			state := "-"
			if svc.Wanted == 0 {
				state = "stopped"
			}
			rows = append(rows, append(row, "-", s.style(dim, state)))
		}
		if o := svc.Override; o != nil {
			notes[len(rows)-1] = append(notes[len(rows)-1], overrideNote(svc.Name, *o, now))
		}
		if svc.Problem != "" && !told(svc) {
			notes[len(rows)-1] = append(notes[len(rows)-1], harmless(svc.Problem, false))
		}
	}
	return rows, notes
}

func overrideNote(service string, o control.Override, now time.Time) string {
	what := "stopped"
	if o.Replicas > 0 {
		what = "set to " + strconv.Itoa(o.Replicas)
	}
	return fmt.Sprintf("%s by hand %s ago, in place of what the file says; undo with: fairlead start %s", what, ago(now.Sub(o.Since)), service)
}

// told says that the service's problem stands with one of its instances already.
func told(svc control.ServiceStatus) bool {
	for _, i := range svc.Instance {
		if i.Reason != "" && strings.Contains(svc.Problem, i.Reason) {
			return true
		}
	}
	return false
}

// renderService shows the state of one service on a line, after start and stop.
func renderService(svc control.ServiceStatus) string {
	if svc.Wanted == 0 {
		return svc.Name + ": stopped; it stays so until: fairlead start " + svc.Name
	}
	return fmt.Sprintf("%s: %d of %d ready", svc.Name, svc.Ready, svc.Wanted)
}

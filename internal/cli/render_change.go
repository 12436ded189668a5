package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/system"
)

// renderReceipt shows what a change did to the traffic of a service:
// "tradeflow: 2 replaced in 1.3s; served meanwhile: old 120, new 133; failed 0".
func renderReceipt(s *screen, r control.Receipt) string {
	sum := func(list []control.Served) (n uint64) {
		for _, e := range list {
			n += e.Requests
		}
		return n
	}
	what := fmt.Sprintf("%d replaced", len(r.New))
	switch {
	case len(r.Old) == 0:
		what = fmt.Sprintf("%d started", len(r.New))
	case len(r.New) == 0:
		what = fmt.Sprintf("%d stopped", len(r.Old))
	case len(r.Old) != len(r.New):
		what = fmt.Sprintf("%d replaced by %d", len(r.Old), len(r.New))
	}
	done := fmt.Sprintf("%s: %s in %s", s.style(bold, r.Service), what, took(r.Took))
	if sum(r.Old)+sum(r.New)+r.Failed == 0 {
		return done // nobody asked for anything
	}
	failed := fmt.Sprintf("failed %d", r.Failed)
	if r.Failed > 0 {
		failed = s.style(red, failed)
	}
	return fmt.Sprintf("%s; served meanwhile: old %d, new %d; %s", done, sum(r.Old), sum(r.New), failed)
}

// renderTraffic shows what went through the door during a change:
// "the door: 253 requests meanwhile, failed 0; longest wait 12ms; still open: 40 of 40 connections, 3 of 3 WebSockets".
// What is not open any more may have been closed by its client.
// It is "" if nothing did.
func renderTraffic(s *screen, t *control.Traffic) string {
	if t == nil || t.Requests == 0 && t.Connections.Before+t.Tunnels.Before == 0 {
		return ""
	}
	failed := fmt.Sprintf("failed %d", t.Failed)
	if t.Failed > 0 {
		failed = s.style(red, failed)
	}
	line := fmt.Sprintf("%s: %s meanwhile, %s", s.style(bold, "the door"), plural(int(t.Requests), "request"), failed)
	if t.Stall > 0 {
		line += "; longest wait " + took(t.Stall)
	}
	var kept []string
	if c := t.Connections; c.Before > 0 {
		kept = append(kept, fmt.Sprintf("%d of %s", c.Kept, plural(c.Before, "connection")))
	}
	if c := t.Tunnels; c.Before > 0 {
		kept = append(kept, fmt.Sprintf("%d of %s", c.Kept, plural(c.Before, "WebSocket")))
	}
	if len(kept) > 0 {
		line += "; still open: " + strings.Join(kept, ", ")
	}
	return line
}

// withTraffic appends the line of the door, if there is one.
func withTraffic(s *screen, lines []string, t *control.Traffic) []string {
	if line := renderTraffic(s, t); line != "" {
		return append(lines, line)
	}
	return lines
}

// renderReload shows the outcome of reload and rollback.
func renderReload(s *screen, r control.ReloadReply, dry bool) []string {
	lines := renderChanges(s, r.Changes)
	if dry {
		switch {
		case len(r.Changes) == 0 && len(r.Replaces) == 0:
			lines = append(lines, "nothing would change in the file; services that build may still come out different")
		case len(r.Replaces) == 0:
			lines = append(lines, "no instance would be replaced; builds are not part of a dry run")
		default:
			lines = append(lines, "would replace the instances of: "+strings.Join(r.Replaces, ", ")+"; builds are not part of a dry run")
		}
		return append(lines, leftBehind(s, r.Warnings)...)
	}
	for _, receipt := range r.Receipts {
		lines = append(lines, renderReceipt(s, receipt))
	}
	lines = withTraffic(s, lines, r.Traffic)
	if r.Revision == 0 {
		return append(lines, "nothing changed in the file or in what the builds left;",
			"for code that runs without a build: fairlead restart SERVICE")
	}
	lines = append(lines, leftBehind(s, r.Warnings)...)
	return append(lines, fmt.Sprintf("revision %d serves", r.Revision))
}

// leftBehind shows what a change leaves behind.
func leftBehind(s *screen, warnings []string) []string {
	lines := make([]string, len(warnings))
	for i, w := range warnings {
		lines[i] = s.style(yellow, "warning:") + " " + harmless(w, false)
	}
	return lines
}

// renderChanges shows a difference of two revisions: + added, - removed, ~ changed.
func renderChanges(s *screen, changes []control.Change) []string {
	var lines []string
	for _, c := range changes {
		was, is := harmless(c.Old, false), harmless(c.New, false)
		switch c.Kind {
		case string(system.Added):
			lines = append(lines, s.style(green, strings.TrimSuffix("+ "+c.Path+": "+is, ": ")))
		case string(system.Removed):
			lines = append(lines, s.style(red, strings.TrimSuffix("- "+c.Path+": "+was, ": ")))
		default:
			lines = append(lines, s.style(yellow, "~ "+c.Path+": "+was+" -> "+is))
		}
	}
	return lines
}

// renderRevisions shows the revisions, newest last.
func renderRevisions(s *screen, list []control.Revision, now time.Time) []string {
	if len(list) == 0 {
		return []string{"no revision was applied yet"}
	}
	rows := [][]string{{s.style(dim, "REVISION"), s.style(dim, "APPLIED"), s.style(dim, "CHANGES"), s.style(dim, "NOTE")}}
	for _, r := range list {
		note := ""
		if r.From > 0 {
			note = "takes up revision " + strconv.Itoa(r.From)
		}
		if r.Current {
			note = strings.TrimSuffix("serves; "+note, "; ")
			note = s.style(green, note)
		}
		rows = append(rows, []string{
			strconv.Itoa(r.Number),
			r.Applied.Local().Format(time.DateTime) + " (" + ago(now.Sub(r.Applied)) + ")",
			strconv.Itoa(r.Changes), note,
		})
	}
	return table(rows)
}

// renderFindings shows each fault of a file on its line, then how many there are.
func renderFindings(s *screen, list system.Findings) []string {
	lines := places(s, list)
	return append(lines, s.style(red, "fairlead:")+" "+plural(len(list), "fault")+" in the file; nothing was changed")
}

// renderWarnings shows what a file that is valid should be known for.
func renderWarnings(s *screen, list system.Findings) []string {
	lines := places(s, list)
	for i := range lines {
		lines[i] = s.style(yellow, "warning:") + " " + lines[i]
	}
	return lines
}

// places shows each finding on its line, with the place in front.
func places(s *screen, list system.Findings) []string {
	lines := make([]string, 0, len(list)+1)
	for _, f := range list {
		f.File = brief(f.File)
		at, rest, found := strings.Cut(f.String(), ": ")
		if found {
			at = s.style(bold, at) + ": "
		}
		lines = append(lines, at+harmless(rest, false))
	}
	return lines
}

// renderEnv shows what the instances of a service are given.
func renderEnv(s *screen, e control.EnvReply) []string {
	rows := [][]string{{s.style(dim, "VARIABLE"), s.style(dim, "FROM"), s.style(dim, "VALUE")}}
	for _, v := range e.Variables {
		value := harmless(v.Value, false)
		switch {
		case v.Secret:
			value = s.style(dim, "(not shown)")
		case value == "" && v.Source != "file":
			value = s.style(dim, "(set at the start)")
		}
		rows = append(rows, []string{v.Name, v.Source, value})
	}
	lines := table(rows)
	for i, l := range lines {
		lines[i] = clip(l, s.columns())
	}
	return lines
}

// renderCheck says what a file that is in order holds.
func renderCheck(sys *system.System, name string) string {
	s := fmt.Sprintf("%s: ok: %s, %s", name, plural(len(sys.Services), "service"), plural(len(sys.Routes), "route"))
	if n := len(sys.Secrets); n > 0 {
		s += ", " + plural(n, "secret")
	}
	if n := len(sys.Databases); n > 0 {
		s += ", " + plural(n, "database")
	}
	return s
}

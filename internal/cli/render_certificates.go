package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"fairlead/internal/control"
)

// mostCertificates are shown; --json has all.
const mostCertificates = 12

// certificateLines shows the door's certificates: what has a problem first, then what
// ends soonest.
func certificateLines(s *screen, st control.Status, now time.Time) []string {
	if len(st.Certificates) == 0 {
		return nil
	}
	all := slices.Clone(st.Certificates)
	slices.SortStableFunc(all, func(a, b control.Certificate) int {
		if (a.Problem == "") != (b.Problem == "") {
			return cmp.Compare(b.Problem, a.Problem)
		}
		return a.Expires.Compare(b.Expires)
	})
	shown := all[:min(len(all), mostCertificates)]
	rows := [][]string{{s.style(dim, "CERTIFICATE"), s.style(dim, "SOURCE"), s.style(dim, "EXPIRES")}}
	for _, c := range shown {
		rows = append(rows, []string{certificateName(c), c.Source, expiry(s, c, now)})
	}
	columns := s.columns()
	lines := []string{""}
	for i, l := range table(rows) {
		lines = append(lines, l)
		if i == 0 || shown[i-1].Problem == "" {
			continue
		}
		for _, part := range wrap(harmless(shown[i-1].Problem, false), max(columns-4, 30)) {
			lines = append(lines, "    "+part)
		}
	}
	if more := len(all) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more; all are in: fairlead status --json", more))
	}
	if st.Root != "" {
		lines = append(lines, wrap("for browsers to accept those of the internal authority, have them trust "+brief(st.Root), max(columns, 30))...)
	}
	return lines
}

func certificateName(c control.Certificate) string {
	switch len(c.Names) {
	case 0:
		return "-"
	case 1:
		return harmless(c.Names[0], false)
	}
	return harmless(c.Names[0], false) + fmt.Sprintf(" and %d more", len(c.Names)-1)
}

func expiry(s *screen, c control.Certificate, now time.Time) string {
	switch left := c.Expires.Sub(now); {
	case c.Expires.IsZero():
		return s.style(red, "none yet")
	case left <= 0:
		return s.style(red, ago(-left)+" ago")
	default:
		return "in " + ago(left)
	}
}

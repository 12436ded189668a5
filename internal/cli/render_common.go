package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// took shows how long something took, with two or three digits that matter.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "0ms"
	case d < time.Second:
		return strconv.FormatInt(d.Round(time.Millisecond).Milliseconds(), 10) + "ms"
	case d < 100*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	default:
		return ago(d)
	}
}

// ago shows an age in at most two units.
func ago(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return two(int(d.Minutes()), "m", int(d.Seconds())%60, "s")
	case d < 24*time.Hour:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "m")
	default:
		return two(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
	}
}

func two(n int, unit string, m int, smaller string) string {
	if m == 0 {
		return fmt.Sprintf("%d%s", n, unit)
	}
	return fmt.Sprintf("%d%s%d%s", n, unit, m, smaller)
}

// plural shows a number of things: "1 service", "3 services".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if s, ok := strings.CutSuffix(thing, "y"); ok {
		return fmt.Sprintf("%d %sies", n, s)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// table lays out rows in columns of equal width, two spaces apart. The last
// column is not padded.
func table(rows [][]string) []string {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		var b strings.Builder
		for j, cell := range r {
			if j > 0 {
				b.WriteString("  ")
			}
			b.WriteString(pad(cell, widths[j]))
		}
		lines[i] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// hanging puts text behind a head, and wraps it so that further lines begin where
// the text began. Where a line has no bound, or there is hardly room beside the
// head, it stays as it is.
func hanging(head, text string, columns int) []string {
	indent := width(head)
	if indent+width(text) <= columns || columns-indent < 20 {
		return []string{head + strings.ReplaceAll(text, noBreak, " ")}
	}
	lines := wrap(text, columns-indent)
	for i, l := range lines {
		if i > 0 {
			head = strings.Repeat(" ", indent)
		}
		lines[i] = head + strings.ReplaceAll(l, noBreak, " ")
	}
	return lines
}

// noBreak is a space at which hanging does not break.
const noBreak = "\u00a0"

// whole keeps hanging from breaking a text.
func whole(text string) string { return strings.ReplaceAll(text, " ", noBreak) }

// wrap breaks text at spaces into lines of at most columns; a longer word stays
// whole.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' || r == '\t' }) {
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= columns:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

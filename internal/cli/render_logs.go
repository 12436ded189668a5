package cli

import (
	"time"

	"fairlead/internal/control"
)

// prefixColors tell the instances of a service apart.
var prefixColors = []color{cyan, yellow, green, magenta, blue, "96", "93", "92", "95", "94"}

// logView renders the lines of a service's instances with aligned, coloured
// prefixes.
type logView struct {
	screen *screen
	times  bool
	colors map[string]color
	widest int
	wrote  map[string]bool // instances that wrote to their standard output
}

func newLogView(s *screen, times bool) *logView {
	return &logView{screen: s, times: times, colors: map[string]color{}, wrote: map[string]bool{}}
}

// line renders one line of output.
func (v *logView) line(l control.Line) string {
	c, seen := v.colors[l.Instance]
	if !seen {
		c = prefixColors[len(v.colors)%len(prefixColors)]
		v.colors[l.Instance] = c
		v.widest = max(v.widest, width(l.Instance))
	}
	prefix := pad(l.Instance, v.widest)
	if v.times {
		prefix = l.Time.Local().Format("2006-01-02 15:04:05.000") + " " + prefix
	}
	sep := " | "
	switch {
	case l.Stream != "err":
		v.wrote[l.Instance] = true
	case v.wrote[l.Instance]: // most programs write everything there, or nothing
		sep = " ! "
	}
	text := l.Text
	if v.screen.live {
		text = harmless(text, v.screen.color)
	}
	return v.screen.style(c, prefix+sep[:2]) + " " + text
}

// stamp is the time of an event as lines begin with it.
func stamp(t time.Time) string { return t.Local().Format(time.TimeOnly) }

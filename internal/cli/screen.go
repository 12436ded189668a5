package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is a place to write to, and what it can show.
type screen struct {
	w     io.Writer
	live  bool // a terminal whose lines can be painted again
	color bool
	utf8  bool
	// size returns the columns and rows, 0 where they do not matter.
	size func() (columns, rows int)
}

func newScreen(w io.Writer, env func(string) string) *screen {
	s := &screen{w: w, size: func() (int, int) { return 0, 0 }}
	locale := env("LC_ALL")
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = env(name)
		}
	}
	locale = strings.ToLower(locale)
	s.utf8 = strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.live = env("TERM") != "dumb"
	s.color = s.live && env("NO_COLOR") == ""
	s.size = func() (int, int) {
		columns, rows, err := term.GetSize(int(f.Fd()))
		if err != nil || columns <= 0 {
			return 80, 24
		}
		return columns, rows
	}
	return s
}

// columns returns how wide a line may be, a great number where it does not matter.
func (s *screen) columns() int {
	if c, _ := s.size(); c > 0 {
		return c
	}
	return 1 << 20
}

func (s *screen) lines(lines ...string) error {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return s.write(b.Bytes())
}

func (s *screen) write(b []byte) error {
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// json writes v for a program, indented for who looks at it.
func (s *screen) json(v any) error {
	return s.encode(v, "  ")
}

// jsonLine writes v on one line, for streams.
func (s *screen) jsonLine(v any) error { return s.encode(v, "") }

func (s *screen) encode(v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return s.write(b.Bytes())
}

// color is the parameter of an SGR sequence (ECMA-48).
type color string

const (
	bold    color = "1"
	dim     color = "2"
	red     color = "31"
	green   color = "32"
	yellow  color = "33"
	blue    color = "34"
	magenta color = "35"
	cyan    color = "36"
)

func (s *screen) style(c color, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// mark returns the first where the terminal shows UTF-8, else the second.
func (s *screen) mark(fine, plain string) string {
	if s.utf8 {
		return fine
	}
	return plain
}

// clip cuts a line to a number of columns, counting no colours.
func clip(line string, columns int) string {
	if width(line) <= columns {
		return line
	}
	var b strings.Builder
	for n := 0; line != ""; {
		if seq := sgr(line); seq > 0 {
			b.WriteString(line[:seq])
			line = line[seq:]
			continue
		}
		_, size := utf8.DecodeRuneInString(line)
		if n++; n < columns {
			b.WriteString(line[:size])
		} else if n == columns {
			b.WriteString("~")
		}
		line = line[size:]
	}
	return b.String()
}

// width counts the columns of a line without its colours.
func width(line string) int {
	n := 0
	for line != "" {
		if seq := sgr(line); seq > 0 {
			line = line[seq:]
			continue
		}
		_, size := utf8.DecodeRuneInString(line)
		line = line[size:]
		n++
	}
	return n
}

// sgr returns the length of the colour sequence that s begins with, 0 for none.
func sgr(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

// sequence returns the length of the control sequence (ECMA-48, 5.4) that s begins
// with, 0 for none.
func sequence(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	i := 2
	for i < len(s) && s[i] >= 0x20 && s[i] <= 0x3f {
		i++
	}
	if i < len(s) && s[i] >= 0x40 && s[i] <= 0x7e {
		i++
	}
	return i
}

// pad fills a line up to a number of columns.
func pad(line string, columns int) string {
	if n := columns - width(line); n > 0 {
		return line + strings.Repeat(" ", n)
	}
	return line
}

// harmless removes what would steer the terminal from text that a service wrote;
// colours may stay where they are shown.
func harmless(text string, colors bool) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError }) {
		return text
	}
	var b strings.Builder
	colored := false
	for text != "" {
		if seq := sgr(text); seq > 0 {
			if colors {
				b.WriteString(text[:seq])
				colored = true
			}
			text = text[seq:]
			continue
		}
		if seq := sequence(text); seq > 0 {
			text = text[seq:]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteRune(utf8.RuneError)
		case r == '\t' || r >= ' ' && r < 0x7f || r >= 0xa0:
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	if colored {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// painter keeps a block of lines at the end of a terminal that is painted again
// and again; what is added scrolls away above it.
type painter struct {
	screen  *screen
	painted int // lines of the block that stand on the terminal
}

// paint writes the lines that stay, then the block, in place of the last one.
func (p *painter) paint(stay, block []string) error {
	columns, rows := p.screen.size()
	if columns <= 0 {
		columns = 80
	}
	if rows > 0 && len(block) > rows-1 {
		block = block[len(block)-(rows-1):]
	}
	var b bytes.Buffer
	if p.painted > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.painted)
	}
	// What the terminal echoed of a Ctrl-C stands on the line of the cursor.
	b.WriteString("\r\x1b[J")
	for _, l := range stay {
		b.WriteString(l + "\n")
	}
	for _, l := range block {
		// A line as wide as the terminal would be followed by an empty one on some.
		b.WriteString(clip(l, columns-1) + "\n")
	}
	p.painted = len(block)
	return p.screen.write(b.Bytes())
}

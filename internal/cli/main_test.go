package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fairlead/test/await"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testdata is absolute: some tests go elsewhere.
var testdata string

func TestMain(m *testing.M) {
	time.Local = time.UTC
	var err error
	if testdata, err = filepath.Abs("testdata"); err != nil {
		panic(err)
	}
	await.Goroutines(m)
}

// golden compares what was shown with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join(testdata, name+".golden")
	if *update {
		if err := os.MkdirAll(testdata, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: %s", path, cmp.Diff(string(want), got))
	}
}

// plainScreen shows nothing but text, colorScreen all there is.
func plainScreen(columns int) *screen {
	return &screen{w: &bytes.Buffer{}, size: func() (int, int) { return columns, 24 }}
}

func colorScreen(columns int) *screen {
	s := plainScreen(columns)
	s.live, s.color, s.utf8 = true, true, true
	return s
}

func shown(lines []string) string { return strings.Join(lines, "\n") + "\n" }

// terminal is as much of a terminal as painter needs.
type terminal struct {
	mu    sync.Mutex // guards the fields below
	lines [][]rune
	row   int
	col   int
}

func (v *terminal) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := []rune(string(b))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\n':
			v.row, v.col = v.row+1, 0
		case s[i] == '\r':
			v.col = 0
		case s[i] == '\x1b':
			n, j := 0, i+2
			for ; s[j] >= '0' && s[j] <= '9' || s[j] == ';'; j++ {
				n = n*10 + int(s[j]-'0')
			}
			switch s[j] {
			case 'A':
				v.row = max(v.row-n, 0)
			case 'J':
				if v.row < len(v.lines) {
					v.lines[v.row] = v.lines[v.row][:min(v.col, len(v.lines[v.row]))]
					v.lines = v.lines[:v.row+1]
				}
			}
			i = j
		default:
			for v.row >= len(v.lines) {
				v.lines = append(v.lines, nil)
			}
			for v.col > len(v.lines[v.row]) {
				v.lines[v.row] = append(v.lines[v.row], ' ')
			}
			v.lines[v.row] = append(v.lines[v.row][:v.col], s[i])
			v.col++
		}
	}
	return len(b), nil
}

func (v *terminal) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	for _, l := range v.lines {
		b.WriteString(strings.TrimRight(string(l), " ") + "\n")
	}
	return b.String()
}

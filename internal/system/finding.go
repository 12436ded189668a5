package system

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"fairlead/internal/system/document"
)

// Finding is one thing that is wrong with a file.
type Finding struct {
	File    string // as it was named to [Load] or [Parse]
	Line    int    // from 1; 0 when the finding is about no place in the file
	Column  int    // from 1, in characters
	Field   string // path of the field, "services.api.replicas"; "" for the whole file
	Problem string // what is wrong, "must be 0 to 64, is 640"
	Advice  string // what to do about it, may be ""
	Code    string // stable name of the diagnostic, "out-of-range"
}

// String returns the finding on one line:
// "fairlead.yaml:12:7: services.api.replicas: must be 0 to 64, is 640; start a second node for more".
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		b.WriteString(":" + strconv.Itoa(f.Line) + ":" + strconv.Itoa(f.Column))
	}
	b.WriteString(": ")
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Problem)
	if f.Advice != "" {
		b.WriteString("; " + f.Advice)
	}
	return b.String()
}

// Findings are all that is wrong with a file, sorted by position. It is an error;
// there is at least one.
type Findings []Finding //nolint:errname // the word of the file, the CLI and the API

// Error returns one line for each finding.
func (fs Findings) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// maxFindings bounds what a hopeless file can make us say.
const maxFindings = 1000

// recorder collects findings. A file is checked once as it stands and once for each
// environment; what was told in one pass is not told again in the next.
type recorder struct {
	file  string
	width []int // characters of each line

	pass     string // environment that is looked at, "" for the file as it stands
	told     map[spot]string
	findings Findings
}

// spot is what makes two findings of different passes the same.
type spot struct {
	line, column int
	field, code  string
}

func newRecorder(file string, src []byte) *recorder {
	r := &recorder{file: file, told: map[spot]string{}}
	for line := range strings.Lines(string(src)) {
		r.width = append(r.width, utf8.RuneCountInString(strings.TrimRight(line, "\r\n")))
	}
	if len(r.width) == 0 {
		r.width = []int{0}
	}
	return r
}

// add records a finding. Its problem and advice are those of the code with args.
func (r *recorder) add(at document.Place, field string, c code, args ...any) {
	r.record(r.finding(at, field, c, args...))
}

// fault records what is wrong with the text of the file.
func (r *recorder) fault(f document.Fault) {
	r.record(r.placed(f.At, Finding{Field: f.Path, Code: f.Code, Problem: f.Problem, Advice: f.Advice}))
}

func (r *recorder) record(f Finding) {
	key := spot{f.Line, f.Column, f.Field, f.Code}
	if pass, ok := r.told[key]; ok && (pass != r.pass || slices.ContainsFunc(r.findings, func(g Finding) bool {
		return g.Line == f.Line && g.Column == f.Column && g.Field == f.Field && strings.HasPrefix(g.Problem, f.Problem)
	})) {
		return
	}
	if len(r.findings) >= maxFindings {
		return
	}
	r.told[key] = r.pass
	if r.pass != "" && !strings.HasPrefix(f.Field, "environments.") {
		f.Problem += " in environment " + r.pass
	}
	r.findings = append(r.findings, f)
	if len(r.findings) == maxFindings {
		last := problems[tooManyProblems]
		r.findings = append(r.findings, Finding{
			File: r.file, Line: len(r.width), Column: r.width[len(r.width)-1] + 1, Code: string(tooManyProblems),
			Problem: fill(last.problem, []any{maxFindings}), Advice: last.advice,
		})
	}
}

// finding makes a finding whose words are those of the code with args.
func (r *recorder) finding(at document.Place, field string, c code, args ...any) Finding {
	words, ok := problems[c]
	if !ok {
		panic("system: no words for the problem " + string(c))
	}
	return r.placed(at, Finding{
		Field: field, Code: string(c),
		Problem: fill(words.problem, args), Advice: fill(words.advice, args),
	})
}

// placed puts a finding into the file, at the place or the nearest there is: the YAML
// library is not exact about a place after some multi-line texts.
func (r *recorder) placed(at document.Place, f Finding) Finding {
	f.File = r.file
	f.Line = min(max(at.Line, 1), len(r.width))
	f.Column = min(max(at.Column, 1), r.width[f.Line-1]+1)
	return f
}

// sorted returns the findings by position, nil if there are none.
func (r *recorder) sorted() Findings {
	slices.SortStableFunc(r.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Problem, b.Problem))
	})
	return r.findings
}

func fill(format string, args []any) string {
	if !strings.Contains(format, "%") {
		return format
	}
	return fmt.Sprintf(format, args...)
}

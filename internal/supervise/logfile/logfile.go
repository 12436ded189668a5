// Package logfile keeps the output of instances in files and reads it back.
//
// Every instance has a row of segments, <instance>.<number>.log, in a folder of
// its service. A segment is only ever appended to; when it is full the next
// number begins and the oldest goes away. Nothing is renamed, so a reader that
// follows neither loses nor repeats a line at rotation.
//
// A record is one line: the time in RFC 3339 with nine digits and UTC, the
// stream (out or err), and the text as the instance wrote it, without its line
// feed. Text that an instance writes cannot forge a record, since every line of
// it gets its own head. Lines longer than [MaxText] are split.
//
// The files outlive a crash of every process of ours. They are not synced to
// the disk: output is data that a loss of power may take.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxText is the longest text of one record in bytes; longer lines are split.
const MaxText = 64 << 10

// The streams of a process.
const (
	Out = "out"
	Err = "err"
)

// Line is one record.
type Line struct {
	Time     time.Time
	Instance string
	Stream   string // out, err
	Text     string
}

// timeLayout has a fixed width, so that the files sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

const headSize = len(timeLayout) + len(" out ")

// head is what precedes the text of a record: time and stream.
type head []byte

func newHead(now time.Time, stream string) head {
	h := now.UTC().AppendFormat(make([]byte, 0, headSize), timeLayout)
	h = append(h, ' ')
	h = append(h, stream...)
	return append(h, ' ')
}

// appendRecord appends one record to dst.
func appendRecord(dst []byte, h head, text []byte) []byte {
	dst = append(dst, h...)
	dst = append(dst, text...)
	return append(dst, '\n')
}

// ParseLine reads one record without its line feed. Instance is left empty.
func ParseLine(b []byte) (Line, error) {
	if len(b) < headSize {
		return Line{}, errors.New("read log record: too short")
	}
	when, err := time.Parse(timeLayout, string(b[:len(timeLayout)]))
	if err != nil {
		return Line{}, fmt.Errorf("read log record: %w", err)
	}
	// Parse also takes a comma, and signs in the fraction.
	fraction := b[len("2006-01-02T15:04:05") : len(timeLayout)-1]
	if fraction[0] != '.' || bytes.ContainsFunc(fraction[1:], func(r rune) bool { return r < '0' || r > '9' }) {
		return Line{}, errors.New("read log record: no fraction of a second")
	}
	rest := b[len(timeLayout):]
	stream := string(rest[1:4])
	if rest[0] != ' ' || rest[4] != ' ' || (stream != Out && stream != Err) {
		return Line{}, errors.New("read log record: no stream")
	}
	return Line{Time: when, Stream: stream, Text: string(rest[5:])}, nil
}

// segmentName is the file name of a segment.
func segmentName(instance string, number int) string {
	return fmt.Sprintf("%s.%06d.log", instance, number)
}

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (instance string, number int, ok bool) {
	base, found := strings.CutSuffix(name, ".log")
	dot := strings.LastIndexByte(base, '.')
	if !found || dot < 1 || len(base)-dot-1 < 6 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(base[dot+1:], 10, 31)
	if err != nil {
		return "", 0, false
	}
	return base[:dot], int(n), true
}

// segments lists the numbers of the segments in dir by instance, sorted. A
// folder that does not exist has none.
func segments(dir string) (map[string][]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list log files: %w", err)
	}
	found := make(map[string][]int)
	for _, e := range entries {
		if instance, n, ok := parseSegmentName(e.Name()); ok {
			found[instance] = append(found[instance], n)
		}
	}
	for _, numbers := range found {
		slices.Sort(numbers)
	}
	return found, nil
}

// Prune removes the files of all instances in dir but those in live and the
// keep ones that were written to last.
func Prune(dir string, live map[string]bool, keep int) error {
	found, err := segments(dir)
	if err != nil {
		return err
	}
	type ended struct {
		instance string
		last     time.Time
	}
	var old []ended
	for instance, numbers := range found {
		if live[instance] {
			continue
		}
		e := ended{instance: instance}
		if info, err := os.Stat(filepath.Join(dir, segmentName(instance, numbers[len(numbers)-1]))); err == nil {
			e.last = info.ModTime()
		}
		old = append(old, e)
	}
	slices.SortFunc(old, func(a, b ended) int { return b.last.Compare(a.last) })
	var errs []error
	for i, e := range old {
		if i < keep {
			continue
		}
		for _, n := range found[e.instance] {
			if err := os.Remove(filepath.Join(dir, segmentName(e.instance, n))); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Recent keeps the last lines of a text in bounded memory. Its zero value keeps
// 40 lines of at most 500 bytes. It is not safe for concurrent use.
type Recent struct {
	lines [][]byte
	next  int
}

const (
	recentLines = 40
	recentBytes = 500
)

// Add takes the next line; blank ones are not kept.
func (r *Recent) Add(text []byte) {
	text = bytes.TrimRight(text, " \t\r\n")
	if len(text) == 0 {
		return
	}
	if len(text) > recentBytes {
		text = text[:recentBytes]
	}
	if len(r.lines) < recentLines {
		r.lines = append(r.lines, bytes.Clone(text))
		return
	}
	r.lines[r.next] = append(r.lines[r.next][:0], text...)
	r.next = (r.next + 1) % recentLines
}

// Lines returns what is kept, oldest first, as valid UTF-8.
func (r *Recent) Lines() []string {
	var lines []string
	for i := range r.lines {
		line := r.lines[(r.next+i)%len(r.lines)]
		lines = append(lines, strings.ToValidUTF8(string(line), "\uFFFD"))
	}
	return lines
}

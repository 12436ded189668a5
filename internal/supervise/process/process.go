// Package process looks at and ends trees of Linux processes.
//
// It knows which processes belong to an instance, also those that left the
// process group, took a session of their own, lost their parent or cleared
// their environment, by three signs that any one of suffices:
//
//   - descent: the parent links in /proc, from a known process down;
//   - the environment: [EnvData] and [EnvInstance], which children inherit;
//   - the tag: a number in the soft limit RLIMIT_LOCKS, which Linux has not
//     enforced since 2.4.25, which every child inherits through fork and exec,
//     and which no program has a reason to change.
//
// It guarantees that no signal hits a process that merely took over a process
// id: signals go through a pidfd after the start time was compared.
//
// It does not start or reap processes, and it does not confine them: a process
// that works against all three signs at once escapes, which takes intent. What
// protects against intent is a container.
package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Variables in the environment of every instance that mark it.
const (
	EnvData     = "FAIRLEAD_DATA_ID"  // random id of the data folder
	EnvInstance = "FAIRLEAD_INSTANCE" // id of the instance
)

// Stat is what /proc/PID/stat says of a process.
type Stat struct {
	PID     int
	Parent  int
	Group   int
	Session int
	State   byte   // R, S, D, Z, T, ...
	Start   uint64 // clock ticks after boot; with PID and boot id it is unique
	Name    string // at most 15 bytes, chosen by the process
}

// Dead reports whether the process has ended and only waits to be reaped.
func (s Stat) Dead() bool { return s.State == 'Z' || s.State == 'X' || s.State == 'x' }

// ParseStat reads the content of /proc/PID/stat. The name in it may hold
// spaces, parentheses and line feeds: the last parenthesis ends it.
func ParseStat(b []byte) (Stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || end < open {
		return Stat{}, errors.New("read process status: no name in parentheses")
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	if err != nil || pid <= 0 {
		return Stat{}, errors.New("read process status: no process id")
	}
	fields := strings.Fields(string(b[end+1:]))
	const start = 19 // field 22 of the file, counted from the state
	if len(fields) <= start || len(fields[0]) != 1 {
		return Stat{}, errors.New("read process status: too few fields")
	}
	s := Stat{PID: pid, State: fields[0][0], Name: string(b[open+1 : end])}
	for i, to := range []*int{&s.Parent, &s.Group, &s.Session} {
		if *to, err = strconv.Atoi(fields[1+i]); err != nil {
			return Stat{}, fmt.Errorf("read process status: field %d: %w", 4+i, err)
		}
	}
	if s.Start, err = strconv.ParseUint(fields[start], 10, 64); err != nil {
		return Stat{}, fmt.Errorf("read process status: start time: %w", err)
	}
	return s, nil
}

// Read returns the status of one process. The error is [os.ErrNotExist] when
// there is none.
func Read(pid int) (Stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = os.ErrNotExist
		}
		return Stat{}, err
	}
	return ParseStat(b)
}

// BootID is different after every boot of the machine.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Table is all processes of the machine at one moment.
type Table []Stat

// All reads the table of processes. Processes that end meanwhile are left out.
func All() (Table, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	table := make(Table, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := Read(pid); err == nil {
			table = append(table, s)
		}
	}
	return table, nil
}

// Below returns the processes that descend from those in roots; the roots
// themselves are not part of it unless they descend from one another.
func (t Table) Below(roots map[int]bool) Table {
	children := make(map[int][]int, len(t))
	for i, s := range t {
		children[s.Parent] = append(children[s.Parent], i)
	}
	var below Table
	seen := make(map[int]bool)
	var queue []int
	for pid := range roots {
		queue = append(queue, pid)
	}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		for _, i := range children[pid] {
			if c := t[i]; !seen[c.PID] {
				seen[c.PID] = true
				below = append(below, c)
				queue = append(queue, c.PID)
			}
		}
	}
	return below
}

// Alive returns those that have not ended.
func (t Table) Alive() Table {
	alive := make(Table, 0, len(t))
	for _, s := range t {
		if !s.Dead() {
			alive = append(alive, s)
		}
	}
	return alive
}

// PIDs returns the process ids.
func (t Table) PIDs() []int {
	pids := make([]int, len(t))
	for i, s := range t {
		pids[i] = s.PID
	}
	return pids
}

// Mark names the processes of one data folder, or of one instance in it.
type Mark struct {
	Data     string // id of the data folder
	Instance string // "" for all instances of Data
}

const (
	tagFlag      = uint64(1) << 62 // keeps a tag apart from limits that people set
	instanceBits = 31
)

// Tag is the number that marks the processes of m. Tags of one data folder
// share their upper half.
func (m Mark) Tag() uint64 {
	data := sha256.Sum256([]byte(m.Data))
	tag := tagFlag | uint64(binary.BigEndian.Uint32(data[:])>>1)<<instanceBits
	if m.Instance == "" {
		return tag
	}
	both := sha256.Sum256([]byte(m.Data + "\x00" + m.Instance))
	return tag | uint64(binary.BigEndian.Uint32(both[:])>>1)
}

// Env is the mark as environment variables.
func (m Mark) Env() []string {
	return []string{EnvData + "=" + m.Data, EnvInstance + "=" + m.Instance}
}

// SetTag sets the tag of the calling process, which children started from now
// on inherit; zero removes it. It fails where the hard limit is not unlimited,
// and nothing is changed then.
func SetTag(tag uint64) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_LOCKS, nil, &limit); err != nil {
		return fmt.Errorf("read the limit that marks processes: %w", err)
	}
	limit.Cur = tag
	if tag == 0 {
		limit.Cur = limit.Max
	}
	if err := unix.Prlimit(0, unix.RLIMIT_LOCKS, &limit, nil); err != nil {
		return fmt.Errorf("set the limit that marks processes: %w", err)
	}
	return nil
}

// SetTagOf sets the tag of another process of the same user, which its children
// inherit from then on.
func SetTagOf(pid int, tag uint64) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &limit); err != nil {
		return fmt.Errorf("read the limit that marks a process: %w", err)
	}
	limit.Cur = tag
	if err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, &limit, nil); err != nil {
		return fmt.Errorf("set the limit that marks a process: %w", err)
	}
	return nil
}

// Tag returns the soft limit that holds the tag of a process.
func Tag(pid int) (uint64, bool) {
	var limit unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &limit)
	if err == nil {
		return limit.Cur, true
	}
	if !errors.Is(err, unix.EPERM) {
		return 0, false
	}
	// Another user's process: the file is readable by everyone.
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0, false
	}
	_, rest, found := bytes.Cut(b, []byte("Max file locks"))
	if !found {
		return 0, false
	}
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(fields[0]), 10, 64)
	return n, err == nil
}

// tagged reports whether a process, living or not yet reaped, has the tag of m.
func (m Mark) tagged(pid int) bool {
	tag, ok := Tag(pid)
	want := m.Tag()
	if m.Instance == "" {
		tag, want = tag>>instanceBits, want>>instanceBits
	}
	return ok && tag == want
}

// Has reports whether a process carries the mark, as tag or in its environment.
func (m Mark) Has(pid int) bool {
	if m.tagged(pid) {
		return true
	}
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil || len(env) == 0 {
		return false
	}
	return hasVariable(env, EnvData, m.Data) && (m.Instance == "" || hasVariable(env, EnvInstance, m.Instance))
}

// hasVariable looks for name=value in what /proc/PID/environ holds.
func hasVariable(env []byte, name, value string) bool {
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if n, v, ok := strings.Cut(string(entry), "="); ok && n == name {
			return v == value
		}
	}
	return false
}

// Marked returns the living processes of the table that carry the mark, and
// all that descend from them or from roots, with the living roots themselves.
// The processes in except are left out, but not their descendants.
func (t Table) Marked(m Mark, roots, except []int) Table {
	skip := make(map[int]bool, len(except)+1)
	for _, pid := range except {
		skip[pid] = true
	}
	found := make(map[int]bool)
	for _, pid := range roots {
		found[pid] = true
	}
	for _, s := range t {
		if !skip[s.PID] && !s.Dead() && m.Has(s.PID) {
			found[s.PID] = true
		}
	}
	for _, s := range t.Below(found) {
		found[s.PID] = true
	}
	var marked Table
	for _, s := range t {
		if found[s.PID] && !skip[s.PID] && !s.Dead() {
			marked = append(marked, s)
		}
	}
	return marked
}

// Orphans returns the ended processes with the tag of m that wait to be reaped
// by parent.
func (t Table) Orphans(m Mark, parent int) Table {
	var orphans Table
	for _, s := range t {
		if s.Parent == parent && s.Dead() && m.tagged(s.PID) {
			orphans = append(orphans, s)
		}
	}
	return orphans
}

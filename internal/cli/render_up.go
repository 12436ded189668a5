package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"fairlead/internal/control"
)

// upHead is what up says first, and where things are for what it says last.
type upHead struct {
	Version     string
	System      string
	File        string // as the person would write it
	Environment string
	Command     string // how to call fairlead for this system
	Logs        string // folder, as the person would write it
	Watch       bool   // what is saved is applied
}

// phase is how far up is.
type phase int

const (
	phaseStarting phase = iota // until all are ready for the first time
	phaseRunning
	phaseStopping
)

// upView turns the events of a node into what up shows. On a terminal that is a
// block with a line for each service, painted again until all are ready, then a
// line for each event; elsewhere, a line for each event from the beginning.
type upView struct {
	screen  *screen
	head    upHead
	started time.Time
	phase   phase

	rows     []*upRow
	byName   map[string]*upRow
	address  string
	secrets  []string // what was generated now, and where
	root     string   // file of the root certificate that was made now, "" for none
	failures []control.Event
	label    int // width of the column of names in event lines
}

// upRow is one service.
type upRow struct {
	name      string
	wanted    int
	byHand    bool      // wanted is not what the file says
	external  string    // where something else runs it, "" if fairlead does
	building  time.Time // zero: not being built now
	built     time.Duration
	failed    bool // its build
	begun     time.Time
	slowest   time.Duration // of its instances until ready
	instances map[string]*upInstance
	order     []string
	// loop is the reason for which it fails again and again, without digits; ""
	// since one of its instances was ready. looped is the last event that told it.
	loop   string
	looped control.EventKind
}

type upInstance struct {
	state  control.EventKind
	reason string
	served bool // it was ready once
}

func newUpView(s *screen, head upHead, started time.Time) *upView {
	return &upView{screen: s, head: head, started: started, byName: map[string]*upRow{}, label: 10}
}

// expect says which services there are and how many instances each shall have.
func (v *upView) expect(service string, wanted int, byHand bool) {
	r := v.row(service)
	r.wanted, r.byHand = wanted, byHand
}

// outside says that something else runs a service, and where.
func (v *upView) outside(service string, addresses []string) {
	v.row(service).external = strings.Join(addresses, ", ")
}

func (v *upView) row(service string) *upRow {
	r, ok := v.byName[service]
	if !ok {
		r = &upRow{name: service, wanted: 1, instances: map[string]*upInstance{}}
		v.byName[service] = r
		v.rows = append(v.rows, r)
		slices.SortFunc(v.rows, func(a, b *upRow) int { return strings.Compare(a.name, b.name) })
		v.label = max(v.label, len(service)+4)
	}
	return r
}

// title is the first line.
func (v *upView) title() []string {
	s := v.screen.style(bold, v.head.System) + " from " + v.head.File
	if v.head.Environment != "" {
		s += " (" + v.head.Environment + ")"
	}
	return []string{s + v.screen.style(dim, "   fairlead "+v.head.Version), ""}
}

// apply takes an event up and returns the lines that it adds for good.
func (v *upView) apply(e control.Event) []string {
	again := v.again(e)
	v.note(e)
	if again {
		return nil
	}
	if v.screen.live && v.phase == phaseStarting {
		switch e.Kind {
		case control.EventBackoff, control.EventFailed, control.EventDatabase, control.EventInfo, control.EventWarning, control.EventTaken:
		default:
			return nil // the block shows it, or what comes after it
		}
	}
	if v.screen.live && v.phase == phaseStopping && (e.Kind == control.EventDraining || e.Kind == control.EventStopped) {
		return nil
	}
	return v.eventLines(e)
}

// again tells that e is one more round of a service that fails for the reason
// that was shown already.
func (v *upView) again(e control.Event) bool {
	if e.Service == "" {
		return false
	}
	r := v.row(e.Service)
	switch e.Kind {
	case control.EventReady:
		r.loop = ""
	case control.EventBackoff, control.EventFailed:
		reason, _, _ := strings.Cut(e.Text, "; ")
		reason = strings.Map(noDigit, reason)
		same := r.loop == reason && (e.Kind == control.EventBackoff || r.looped == control.EventFailed)
		r.loop, r.looped = reason, e.Kind
		return same && !r.served(e.Instance)
	case control.EventStarting:
		return r.loop != ""
	case control.EventStopped:
		return r.loop != "" && e.Text == "" && !r.served(e.Instance)
	default:
	}
	return false
}

// noDigit drops digits: what differs only in a port or a process is the same.
func noDigit(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// served reports whether an instance was ready once.
func (r *upRow) served(instance string) bool {
	i := r.instances[instance]
	return i != nil && i.served
}

func (v *upView) note(e control.Event) {
	switch e.Kind {
	case control.EventBuilding:
		r := v.row(e.Service)
		r.building, r.failed = e.Time, false
	case control.EventBuilt:
		r := v.row(e.Service)
		r.building, r.built = time.Time{}, e.Took
	case control.EventBuildError:
		r := v.row(e.Service)
		r.building, r.failed = time.Time{}, true
		v.failures = append(v.failures, e)
	case control.EventStarting, control.EventReady, control.EventDraining, control.EventStopped, control.EventBackoff, control.EventFailed:
		if e.Service != "" {
			v.row(e.Service).note(e)
		}
	case control.EventListening:
		v.address = e.Text
	case control.EventSecret:
		v.secrets = append(v.secrets, e.Text)
	case control.EventRoot:
		v.root = e.Text
	case control.EventSwapped, control.EventDatabase, control.EventInfo, control.EventWarning, control.EventTaken:
	default:
	}
}

func (r *upRow) note(e control.Event) {
	if r.begun.IsZero() {
		r.begun = e.Time
	}
	if e.Kind == control.EventStopped {
		delete(r.instances, e.Instance)
		r.order = slices.DeleteFunc(r.order, func(id string) bool { return id == e.Instance })
		return
	}
	i, ok := r.instances[e.Instance]
	if !ok {
		// A new instance takes the place of one that failed.
		if at := slices.IndexFunc(r.order, func(id string) bool { return r.instances[id].over() }); at >= 0 {
			delete(r.instances, r.order[at])
			r.order = slices.Delete(r.order, at, at+1)
		}
		i = &upInstance{}
		r.instances[e.Instance] = i
		r.order = append(r.order, e.Instance)
	}
	i.state = e.Kind
	if e.Text != "" {
		i.reason = e.Text
	}
	if e.Kind == control.EventReady {
		i.reason, i.served = "", true
		r.slowest = max(r.slowest, e.Took)
	}
}

// over tells that the instance has ended by itself.
func (i *upInstance) over() bool {
	return i.state == control.EventBackoff || i.state == control.EventFailed
}

func (r *upRow) ready() int {
	n := 0
	for _, i := range r.instances {
		if i.state == control.EventReady {
			n++
		}
	}
	return n
}

// live lists the instances that have not ended.
func (r *upRow) live() []string {
	var ids []string
	for _, id := range r.order {
		if !r.instances[id].over() {
			ids = append(ids, id)
		}
	}
	return ids
}

// trouble returns the first instance that is not on its way, "" if there is none.
func (r *upRow) trouble() (id string, i *upInstance) {
	for _, id := range r.order {
		if i := r.instances[id]; i.reason != "" {
			return id, i
		}
	}
	return "", nil
}

// eventLines shows one event as it stays on the screen.
func (v *upView) eventLines(e control.Event) []string {
	s := v.screen
	who := cmp.Or(e.Instance, e.Service)
	var text string
	told := harmless(e.Text, false)
	with := func(word string) string {
		if told == "" {
			return word
		}
		return word + ": " + told
	}
	switch e.Kind {
	case control.EventBuilding:
		text = "building"
	case control.EventBuilt:
		text = "built in " + took(e.Took)
	case control.EventBuildError:
		return append(v.eventLine(e.Time, who, s.style(red, "build failed")), indented(s, e.Text)...)
	case control.EventStarting:
		text = with("starting")
	case control.EventReady:
		text = s.style(green, "ready") + " in " + took(e.Took)
	case control.EventDraining:
		text = with("draining")
	case control.EventStopped:
		text = with("stopped")
	case control.EventBackoff:
		text = s.style(yellow, "backoff") + strings.TrimPrefix(with("backoff"), "backoff")
	case control.EventFailed:
		text = s.style(red, "failed") + strings.TrimPrefix(with("failed"), "failed")
	case control.EventSwapped:
		who, text = "routes", strings.TrimSuffix("swapped: "+told, ": ")
	case control.EventListening:
		who, text = "door", "open at "+s.style(bold, told)
	case control.EventSecret:
		who, text = "secret", "generated "+briefly(told)
	case control.EventRoot:
		who, text = "root", "made "+brief(told)+", for browsers to trust"
	case control.EventDatabase:
		who, text = "database", "created "+briefly(told)
	case control.EventWarning:
		text = s.style(yellow, "warning") + strings.TrimPrefix(with("warning"), "warning")
	case control.EventInfo, control.EventTaken:
		text = told
	default:
		text = with(string(e.Kind))
	}
	if who == "" {
		who = "fairlead"
	}
	return v.eventLine(e.Time, who, text)
}

// briefly shortens the path in "name: path".
func briefly(text string) string {
	if name, path, ok := strings.Cut(text, ": "); ok {
		return name + ": " + brief(path)
	}
	return text
}

// eventLine is one line, or on a narrow terminal several, the further ones
// indented.
func (v *upView) eventLine(t time.Time, who, text string) []string {
	return hanging(v.screen.style(dim, stamp(t))+"  "+pad(who, v.label)+"  ", text, v.screen.columns())
}

// indented shows the output of a program, which may be anything.
func indented(s *screen, output string) []string {
	var lines []string
	for l := range strings.Lines(strings.TrimRight(output, "\n")) {
		lines = append(lines, "    "+harmless(strings.TrimRight(l, "\r\n"), s.color))
	}
	return lines
}

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// block returns the lines that are painted again and again, none when there is
// nothing to wait for.
func (v *upView) block(now time.Time) []string {
	if !v.screen.live || v.phase == phaseRunning {
		return nil
	}
	frame := int(now.Sub(v.started) / (100 * time.Millisecond))
	spin := v.screen.mark(string(spinner[frame%len(spinner)]), string(`|/-\`[frame%4]))
	var lines []string
	for _, r := range v.rows {
		mark, state, detail := r.show(v.screen, v.phase, now)
		if mark == "" && state == "" {
			continue
		}
		if mark == "" {
			mark = v.screen.style(cyan, spin)
		}
		lines = append(lines, v.rowLine(mark, r.name, state, detail))
	}
	if v.phase == phaseStarting && v.address != "" {
		lines = append(lines, "", "  door open at "+v.screen.style(bold, v.address)+"; requests wait for what is not ready")
	}
	return lines
}

// show returns what to show of a service; an empty mark means that it is busy,
// with an empty state that there is nothing to show.
func (r *upRow) show(s *screen, p phase, now time.Time) (mark, state, detail string) {
	good, bad := s.style(green, s.mark("✓", "+")), s.style(red, s.mark("✗", "x"))
	if p == phaseStopping {
		if live := r.live(); len(live) > 0 {
			return "", "stopping", strings.Join(live, ", ")
		}
		return "", "", ""
	}
	ready := r.ready()
	id, trouble := r.trouble()
	switch {
	case r.external != "":
		return s.style(dim, s.mark("○", "-")), "external", "at " + r.external
	case r.failed:
		return bad, "build failed", ""
	case !r.building.IsZero():
		return "", "building", took(now.Sub(r.building))
	case r.wanted == 0:
		if r.byHand {
			detail = "by hand; undo with: fairlead start " + r.name
		}
		return s.style(dim, s.mark("○", "-")), "stopped", detail
	case ready >= r.wanted:
		return good, "ready", r.times()
	case trouble != nil && trouble.state != control.EventStarting:
		return bad, string(trouble.state), id + ": " + harmless(trouble.reason, false)
	case len(r.order) > 0:
		detail = fmt.Sprintf("%d of %d ready, %s", ready, r.wanted, took(now.Sub(r.begun)))
		if trouble != nil {
			detail += "; " + id + ": " + harmless(trouble.reason, false)
		}
		return "", "starting", detail
	case r.built > 0:
		return "", "built", "in " + took(r.built)
	default:
		return "", "waiting", ""
	}
}

// times says how long the service took until it was ready.
func (r *upRow) times() string {
	var parts []string
	if r.wanted > 1 {
		parts = append(parts, plural(r.wanted, "instance"))
	}
	if r.built > 0 {
		parts = append(parts, "built in "+took(r.built))
	}
	return strings.Join(append(parts, "ready in "+took(r.slowest)), ", ")
}

// ready ends the starting phase and returns the lines that say where everything
// is.
func (v *upView) ready(now time.Time) []string {
	var lines []string
	if v.screen.live {
		// The block as it is now stays on the screen, with the whole of its reasons.
		for _, r := range v.rows {
			if mark, state, detail := r.show(v.screen, v.phase, now); mark != "" {
				lines = append(lines, v.rowLines(mark, r.name, state, detail)...)
			}
		}
	}
	v.phase = phaseRunning
	instances, services := 0, 0
	for _, r := range v.rows {
		if r.external == "" {
			instances, services = instances+r.ready(), services+1
		}
	}
	text := fmt.Sprintf("ready: %s of %s in %s", plural(instances, "instance"), plural(services, "service"), took(now.Sub(v.started)))
	if v.screen.live {
		return append(lines, "", "  "+text)
	}
	return append(lines, v.eventLine(now, "fairlead", text)...)
}

// places says where the door, the logs and the secrets made now are, and how to
// stop.
func (v *upView) places(address string) []string {
	rows := [][2]string{{"open", v.screen.style(bold, address)}}
	rows = append(rows, [2]string{"logs", whole(v.head.Command+" logs -f SERVICE;") + " " + whole("files in "+v.head.Logs)})
	if v.head.Watch {
		rows = append(rows, [2]string{"watch", "what is saved is built and applied"})
	}
	for _, text := range v.secrets {
		name, path, _ := strings.Cut(text, ": ")
		rows = append(rows, [2]string{"secret", name + " was generated now; it is in " + brief(path)})
	}
	if v.root != "" {
		rows = append(rows, [2]string{"trust", "the certificates are of this system's own authority; for browsers to accept them, have them trust " + brief(v.root)})
	}
	rows = append(rows, [2]string{"stop", "Ctrl-C, a second time at once; or: " + whole(v.head.Command+" down")})
	lines := []string{""}
	for _, r := range rows {
		lines = append(lines, hanging("  "+v.screen.style(dim, pad(r[0], 6))+"  ", r[1], v.screen.columns())...)
	}
	return append(lines, "")
}

// interrupted is why a system stops after Ctrl-C.
const interrupted = "interrupted"

// stop begins the stopping phase and returns the line that says what is waited
// for. why is what asked for it.
func (v *upView) stop(now time.Time, why string) []string {
	v.phase = phaseStopping
	var waiting []string
	for _, r := range v.rows {
		if n := len(r.live()); n > 0 {
			waiting = append(waiting, fmt.Sprintf("%s (%d)", r.name, n))
		}
	}
	text := why + ": stopping in order"
	if len(waiting) > 0 && !v.screen.live {
		text += ", waiting for " + strings.Join(waiting, ", ")
	}
	again := "; a second signal kills at once"
	if why == interrupted {
		again = "; Ctrl-C again kills at once"
	}
	return v.eventLine(now, "fairlead", text+again)
}

// left lists the instances that have not ended.
func (v *upView) left() []string {
	var ids []string
	for _, r := range v.rows {
		ids = append(ids, r.live()...)
	}
	return ids
}

// stopped is the last line.
func (v *upView) stopped(now, since time.Time) []string {
	return v.eventLine(now, "fairlead", "stopped in "+took(now.Sub(since)))
}

// failed returns what is shown when the system did not come up: what kept which
// service, and the output of the builds that failed.
func (v *upView) failed(now time.Time) []string {
	var lines []string
	if v.screen.live {
		for _, r := range v.rows {
			if mark, state, detail := r.show(v.screen, v.phase, now); mark != "" && r.wanted > 0 {
				lines = append(lines, v.rowLines(mark, r.name, state, detail)...)
			}
		}
		for _, e := range v.failures {
			lines = append(lines, "", "  "+v.screen.style(red, "build of "+e.Service+" failed:"))
			lines = append(lines, indented(v.screen, e.Text)...)
		}
		lines = append(lines, "")
	}
	v.phase = phaseRunning
	return lines
}

// unbuilt names the services whose builds failed.
func (v *upView) unbuilt() []string {
	var names []string
	for _, e := range v.failures {
		names = append(names, e.Service)
	}
	return names
}

// rowLine is the line of a service in the block; it is clipped when painted.
func (v *upView) rowLine(mark, name, state, detail string) string {
	return v.rowHead(mark, name, state) + v.screen.style(dim, detail)
}

// rowLines are what stays of a service's line.
func (v *upView) rowLines(mark, name, state, detail string) []string {
	return hanging(v.rowHead(mark, name, state), v.screen.style(dim, detail), v.screen.columns())
}

func (v *upView) rowHead(mark, name, state string) string {
	return "  " + mark + " " + pad(name, v.label-4) + "  " + pad(state, 12) + "  "
}

package system

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/message"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var queueSchema = schema{
	what: "a queue", empty: true,
	keys: []string{"type", "enforce", "keep", "max_bytes", "max_messages", "dedupe", "replicas"},
}

const (
	day          = 24 * time.Hour
	defaultKeep  = 7 * day
	longestKeep  = 36500 * day
	defaultDedup = 2 * time.Minute
	longestDedup = day
	mostQueues   = 200
	mostTypes    = 200
)

var (
	// queueName is what a queue's subjects may look like. Streams are named after it;
	// those of fairlead itself begin with a capital.
	queueName = regexp.MustCompile(`^[a-z][A-Za-z0-9_-]*(\.([A-Za-z0-9_-]+|\*))*(\.>)?$`)
	typeName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,62}$`)
)

// readTypes reads the types and the schemas that they name.
func (r *reader) readTypes(n *document.Node) {
	entries := r.entries(n, "schema files by the name of the type")
	if len(entries) > mostTypes {
		r.rec.add(n.KeyAt, n.Path, tooMany, fmt.Sprint(mostTypes), len(entries), "")
		return
	}
	for _, m := range entries {
		r.types[m.Key] = m
		if !typeName.MatchString(m.Key) {
			r.rec.add(m.KeyAt, m.Path, badName, wording.Quote(m.Key), "a name of letters and digits that begins with a letter, at most 63", "write it as in DataNotification")
		}
		text, ok := r.schemaFile(m)
		if !ok {
			continue
		}
		if _, err := message.Compile(m.Key, text); err != nil {
			if fault, ok := errors.AsType[*message.SchemaError](err); ok && fault.JSON {
				r.rec.add(m.At, m.Path, notJSON, wording.Quote(m.Text), fault.Reason)
			} else {
				r.rec.add(m.At, m.Path, badSchema, wording.Quote(m.Text), err)
			}
			continue
		}
		r.warnKeywords(m, text)
		sum := sha256.Sum256(text)
		r.sys.flat[document.Join("types", m.Key)] = m.Text + " (sha256 " + hex.EncodeToString(sum[:6]) + ")"
		r.sys.Types = append(r.sys.Types, Type{Name: m.Key, File: absolute(r.dir, m.Text), Schema: text})
	}
	slices.SortFunc(r.sys.Types, func(a, b Type) int { return cmp.Compare(a.Name, b.Name) })
}

// warnKeywords tells of what in a schema is no keyword, and so checks nothing.
func (r *reader) warnKeywords(n *document.Node, text []byte) {
	const most = 5
	places, err := message.Unknown(text)
	if err != nil {
		return // it was compiled
	}
	for _, place := range places[:min(most, len(places))] {
		advice := "remove it, or begin it with x-"
		if best, ok := wording.Nearest(place[strings.LastIndexByte(place, '/')+1:], message.Keywords()); ok {
			advice = "did you mean " + wording.Quote(best) + "?"
		}
		r.warn(n.At, n.Path, unknownKeyword, wording.Quote(n.Text), place, advice)
	}
}

// schemaFile returns the text of the file that a type names: of the disk, or, for a
// stored revision, as it was then.
func (r *reader) schemaFile(n *document.Node) ([]byte, bool) {
	if text, ok := r.files[n.Text]; ok && n.Scalar() {
		return text, true
	}
	if r.stored {
		if path, ok := r.path(n); ok {
			r.rec.add(n.At, n.Path, notFound, wording.Quote(path), "the revision was stored without it")
		}
		return nil, false
	}
	before := len(r.rec.findings)
	path := r.file(n, false)
	if path == "" || len(r.rec.findings) > before {
		return nil, false
	}
	text, err := readAtMost(path, message.MaxSchema)
	if err != nil {
		r.rec.add(n.At, n.Path, badPath, "cannot be read: "+wording.OneLine(err.Error()), "name a file that can be read, of at most "+notation.FormatSize(message.MaxSchema))
		return nil, false
	}
	r.files[n.Text] = text
	return text, true
}

// readAtMost reads a file that has at most that many bytes.
func readAtMost(path string, most int64) (b []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		if e, ok := errors.AsType[*os.PathError](err); ok {
			err = e.Err
		}
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, most+1)); err == nil && int64(len(b)) > most {
		err = errors.New("it is larger than " + notation.FormatSize(most))
	}
	return b, err
}

// readQueues reads the queues. The types were read before.
func (r *reader) readQueues(n *document.Node) {
	entries := r.entriesWith(n, "queues by their subjects", "write {} for the defaults, or remove the key")
	if len(entries) > mostQueues {
		r.rec.add(n.KeyAt, n.Path, tooMany, fmt.Sprint(mostQueues), len(entries), "")
		return
	}
	for _, m := range entries {
		named := r.queueName(m)
		f := r.fields(m, queueSchema)
		q := Queue{Name: m.Key}
		q.Keep = r.duration(f["keep"], defaultKeep, time.Second, longestKeep)
		q.MaxBytes = r.size(f["max_bytes"], 0, 1<<10, 1<<50)
		q.MaxCount = int64(r.int(f["max_messages"], 0, 1, 1<<40, ""))
		q.Dedupe = r.duration(f["dedupe"], min(defaultDedup, q.Keep), 100*time.Millisecond, min(longestDedup, q.Keep))
		q.Replicas = r.replicas(f["replicas"])
		q.Enforce = Enforce(r.oneOf(f["enforce"], string(EnforceReject), string(EnforceReject), string(EnforceQuarantine), string(EnforceObserve)))
		if t := f["type"]; t != nil {
			q.Type, _ = r.text(t)
			if r.types[q.Type] == nil {
				r.refer("types", t.At, t.Path, unknownType, wording.Quote(q.Type), wording.Suggest(q.Type, names(r.types), "declare it under types"))
			}
		} else if e := f["enforce"]; e != nil {
			r.rec.add(e.KeyAt, e.Path, misplaced, "to a queue without a type", "add type, or remove it")
		}
		if named {
			r.queues = append(r.queues, m)
			r.sys.Queues = append(r.sys.Queues, q)
		}
	}
	slices.SortFunc(r.sys.Queues, func(a, b Queue) int { return cmp.Compare(a.Name, b.Name) })
}

// replicas reads on how many servers a queue is kept: the bus in fairlead is one.
func (r *reader) replicas(n *document.Node) int {
	if r.sys.Bus.Server != nil {
		return r.int(n, 1, 1, 5, "NATS keeps at most 5")
	}
	return r.int(n, 1, 1, 1, "the bus runs on one node so far")
}

// queueName tells whether a queue can have that name, and which other has its subjects.
func (r *reader) queueName(m *document.Node) bool {
	const most = 128
	if err := notation.CheckSubject(m.Key, true); err != nil {
		r.rec.add(m.KeyAt, m.Path, badSubject, err)
		return false
	}
	if !queueName.MatchString(m.Key) || len(m.Key) > most || slices.ContainsFunc(strings.Split(m.Key, "."), func(t string) bool { return t == "ANY" || t == "ALL" }) {
		r.rec.add(m.KeyAt, m.Path, badName, wording.Quote(m.Key),
			"subjects of letters, digits, _ and - that begin with a small letter, at most 128, without the words ANY and ALL", "write it as in data.vhf, activity.* or orders.>")
		return false
	}
	for _, other := range r.queues {
		if notation.SubjectsMeet(other.Key, m.Key) {
			r.rec.add(m.KeyAt, m.Path, sharedSubjects, wording.Quote(other.Key), other.KeyAt)
			return false
		}
	}
	return true
}

// checkQueues tells which queues hold subjects that a service answers: a request
// there would be stored, and confirmed by the bus instead.
func (r *reader) checkQueues() {
	for _, q := range r.queues {
		if services := r.whoAnswers(q.Key); len(services) > 0 {
			r.rec.add(q.KeyAt, q.Path, queueAnswered, wording.Enumerate(services, "and"))
		}
	}
}

// Queue finds the queue that keeps a subject, nil if none does.
func (s *System) Queue(subject string) *Queue {
	for i := range s.Queues {
		if notation.SubjectsMeet(s.Queues[i].Name, subject) {
			return &s.Queues[i]
		}
	}
	return nil
}

// Type finds a type by its name.
func (s *System) Type(name string) (*Type, bool) {
	for i := range s.Types {
		if s.Types[i].Name == name {
			return &s.Types[i], true
		}
	}
	return nil, false
}

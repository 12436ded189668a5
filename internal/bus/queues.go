package bus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/delivery"
	"fairlead/internal/bus/link"
	"fairlead/internal/system"
	"fairlead/internal/system/notation"
)

// queues is what the bus holds of the catalogue.
type queues struct {
	mu      sync.Mutex // guards all, and serialises changes of the streams
	conn    *nats.Conn
	js      jetstream.JetStream
	checker *catalogue.Checker // nil: the model never had a queue

	committer atomic.Pointer[catalogue.Committer] // nil as long as checker is
	desk      *delivery.Desk                      // as the checker
}

// ensureTime bounds how long the streams are made and changed.
const ensureTime = 30 * time.Second

// prepareQueues makes the streams of the model's queues, and the checker ready for
// them. Publishers are sent there when the model is in force.
func (b *Bus) prepareQueues(sys *system.System) error {
	ctx, cancel := context.WithTimeout(context.Background(), ensureTime)
	defer cancel()
	return b.openQueues(ctx, sys)
}

func (b *Bus) openQueues(ctx context.Context, sys *system.System) error {
	q := &b.catalogue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.checker == nil && len(sys.Queues) == 0 && !b.hasStreams() {
		return nil // nothing to make, nothing to set apart
	}
	types, err := catalogue.Compile(sys)
	if err != nil {
		return err
	}
	if q.conn == nil || q.conn.IsClosed() {
		// What is published while the server is away must not be sent later: by then
		// it may be another's, and other rules may hold.
		if q.conn, err = b.Operator("catalogue", nats.ReconnectBufSize(-1)); err != nil {
			return err
		}
		if q.js, err = jetstream.New(q.conn); err != nil {
			return err
		}
	}
	if err := catalogue.Ensure(ctx, q.js, sys.Queues, b.link != nil); err != nil {
		return err
	}
	b.staging.use(catalogue.Streams(sys.Queues))
	if q.checker == nil && len(sys.Queues) == 0 {
		return nil
	}
	if q.checker == nil {
		if q.checker, err = catalogue.Open(q.conn, b.log, b.Healthy, b.largest(), sys.Queues, types); err != nil {
			return err
		}
	}
	if err := b.openDesk(ctx, q, sys); err != nil {
		return err
	}
	if b.isClosed() {
		q.desk.Close()
		q.checker.Close()
		return ErrClosed
	}
	q.checker.Set(sys.Queues, types)
	q.desk.Set(sys.Queues)
	if q.committer.Load() == nil {
		return b.openCommitter()
	}
	return nil
}

// openCommitter begins to store what the door publishes. Its connection comes back to
// the bus of the process that takes over, and buffers nothing, as the checker's.
func (b *Bus) openCommitter() error {
	at := &near{b: b, address: strings.TrimPrefix(b.url, "nats://")}
	nc, err := b.connect("fairlead publishes", Credentials{InboxPrefix: b.inbox}, []nats.Option{
		nats.InProcessServer(at), nats.UserInfoHandler(at.user), nats.ReconnectBufSize(-1),
	})
	if err != nil {
		return err
	}
	b.catalogue.committer.Store(catalogue.NewCommitter(b.catalogue.checker, nc, b.staging.inMemory))
	return nil
}

// Publish stores a message in a queue that a route of the model publishes to, and
// returns when it is synced; see [catalogue.Committer.Commit].
func (b *Bus) Publish(ctx context.Context, m catalogue.Publication) (catalogue.Stored, error) {
	c := b.catalogue.committer.Load()
	if c == nil {
		return catalogue.Stored{}, catalogue.ErrNoQueue
	}
	return c.Commit(ctx, m)
}

// hasStreams reports whether the store may hold streams, of queues too.
func (b *Bus) hasStreams() bool {
	s := b.server.Load()
	return s == nil || b.link != nil || s.GlobalAccount().JetStreamUsage().Streams > 0
}

func (q *queues) close() {
	if c := q.committer.Load(); c != nil {
		c.Close()
	}
	q.leave()
}

// leave ends all but what the door publishes.
func (q *queues) leave() {
	q.mu.Lock()
	checker, desk := q.checker, q.desk
	q.mu.Unlock()
	if desk != nil {
		desk.Close()
	}
	if checker != nil {
		checker.Close()
	}
}

// Refused returns what became of the messages of each queue since the bus was opened,
// as far as its checker has seen them.
func (b *Bus) Refused() map[string]catalogue.Counts {
	b.catalogue.mu.Lock()
	checker := b.catalogue.checker
	b.catalogue.mu.Unlock()
	if checker == nil {
		return nil
	}
	return checker.Counts()
}

// largest is the size of the largest message that a queue takes. Subscribers hear it
// with headers that say where it is stored; a server elsewhere is asked for messages in
// base64, and the link to it is cut by what it does not carry.
func (b *Bus) largest() int64 {
	const added = 1 << 10
	if b.link != nil {
		return b.MaxPayload()*3/4 - 4*added
	}
	return b.MaxPayload() - added
}

// mappings are the subjects that the server shall map, with where to: those of the
// model's queues, and those that lead to a JetStream elsewhere.
func (b *Bus) mappings(sys *system.System) map[string]string {
	m := map[string]string{}
	if sys != nil {
		m = catalogue.Mappings(sys.Queues, b.link != nil)
	}
	if b.link != nil {
		maps.Copy(m, link.Mappings(b.link.place))
	}
	return m
}

// mapSubjects changes the mappings of the account from what is to what shall be.
func mapSubjects(account *server.Account, is, shall map[string]string) error {
	for from, to := range shall {
		if is[from] == to {
			continue
		}
		if err := account.AddMapping(from, to); err != nil { // replaces the one that there is
			return fmt.Errorf("map %s to %s: %w", from, to, err)
		}
	}
	for from := range is {
		if _, stays := shall[from]; !stays {
			account.RemoveMapping(from)
		}
	}
	return nil
}

// guarded are the mappings between the ones in force and the next: new queues go to the
// checker before the permissions change, all else stays until they have.
func (b *Bus) guarded(next map[string]string) map[string]string {
	between := maps.Clone(b.mapped)
	for from, to := range next {
		if strings.HasPrefix(to, catalogue.Incoming) {
			between[from] = to
		}
	}
	return between
}

// remap makes the server map subjects; b.reload is held.
func (b *Bus) remap(s *server.Server, shall map[string]string) error {
	if maps.Equal(b.mapped, shall) {
		return nil
	}
	if err := mapSubjects(s.GlobalAccount(), b.mapped, shall); err != nil {
		return err
	}
	b.mapped = shall
	return nil
}

// grantQueues lets whoever may publish on some subjects publish to the queues that
// keep them, by the checker. The server compares with what it has mapped a subject to.
//
// The subjects themselves are denied: that a message came there would mean that it
// was not mapped.
func grantQueues(p *server.SubjectPermission, publishes []string, sys *system.System) {
	if sys == nil {
		return
	}
	var allow, deny []string
	for i := range sys.Queues {
		q := &sys.Queues[i]
		for _, subject := range publishes {
			both := notation.SubjectsShared(q.Name, subject)
			if both == "" {
				continue
			}
			allow = append(allow, catalogue.Incoming+both)
		}
		if overlapAny(p.Allow, []string{q.Name}) {
			deny = append(deny, q.Name)
		}
	}
	p.Allow = sorted(append(slices.Clone(p.Allow), allow...))
	p.Deny = sorted(append(slices.Clone(p.Deny), deny...))
}

// grantCommitter lets a user store what routes publish, with the markers
// of their keys, and put it among the dead letters.
func grantCommitter(p *server.Permissions, sys *system.System) {
	if sys == nil {
		return
	}
	for i := range sys.Routes {
		to := sys.Routes[i].Publish
		if to == nil {
			continue
		}
		for j := range sys.Queues {
			q := &sys.Queues[j]
			both := notation.SubjectsShared(q.Name, pattern(to.Subject))
			if both == "" {
				continue
			}
			p.Publish.Allow = append(
				p.Publish.Allow,
				catalogue.Accepted+both, catalogue.Keys+"*."+both, catalogue.Dead+both,
				"$JS.API.STREAM.MSG.GET."+catalogue.Stream(q.Name),
			)
		}
	}
	p.Publish.Allow = sorted(p.Publish.Allow)
}

// pattern is a route's subject with a wildcard for each token that holds {name}.
func pattern(subject string) string {
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if strings.Contains(t, "{") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// toolsPermissions keep the operator's tools from publishing past the checker. All
// else is theirs.
func toolsPermissions(sys *system.System) *server.Permissions {
	if sys == nil || len(sys.Queues) == 0 {
		return nil
	}
	deny := []string{catalogue.Accepted + ">", catalogue.Dead + ">", catalogue.Keys + ">"}
	return &server.Permissions{Publish: &server.SubjectPermission{Deny: sorted(deny)}}
}

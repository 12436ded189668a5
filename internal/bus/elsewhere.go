package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/gatekeeper"
	"fairlead/internal/bus/link"
	"fairlead/internal/wire"
)

// ErrElsewhereTaken is returned by [Open] when another bus uses the account elsewhere:
// its queues and its state would be the same ones. The error's text names it.
var ErrElsewhereTaken = errors.New("another system uses the account")

const (
	// linkTime bounds the wait for a server elsewhere at the start. Whoever starts
	// both starts them in any order.
	linkTime  = 15 * time.Second
	linkPause = 25 * time.Millisecond
	// linkGlance is how often it is looked whether the link stands.
	linkGlance = 250 * time.Millisecond
	// linkReports is of how many attempts to connect again the server logs one, and the
	// first.
	linkReports = 3600
	// linkNews is what the lines of the server's log hold that tell of the link.
	linkNews = "leafnode"

	// claim is where a bus answers that it uses an account elsewhere.
	claim     = "$FLQ.node"
	claimTime = 2 * time.Second
)

// Over the link go messages for services and users, what streams store and what they
// say of it, and JetStream's API; everything from elsewhere that is published on a
// queue's subject takes the way of any such message. What follows stays here.
var (
	// ownControl is what our clients may ask the bus itself. Who asks is known by the
	// subject, because permissions grant nobody another's; elsewhere they are not ours.
	ownControl = []string{
		catalogue.Incoming + ">", catalogue.Refused + ">", gatekeeper.Heard, gatekeeper.Onward,
		wire.SubjectSubscribe + ">", wire.SubjectReject + ">", wire.SubjectNames + ">", wire.SubjectQueues,
		wire.SubjectHold + ">",
	}
	// ownReplies are replies to our clients, which nobody elsewhere waits for.
	ownReplies = wire.InboxPrefix + ".>"
)

// toElsewhere is the link to the server whose JetStream keeps what the bus keeps.
type toElsewhere struct {
	server link.Server
	system string
	place  link.Place
	file   string // the credentials, while the server runs

	mu   sync.Mutex // guards said
	said string     // the last that the bus's server logged about the link
}

// linkTo finds the server elsewhere, for some time if it is not there, and makes the
// bus's server its leaf node.
func (b *Bus) linkTo(ctx context.Context, s link.Server, system string) (_ *toElsewhere, err error) {
	l := &toElsewhere{server: s, system: system}
	user, err := s.User("fairlead " + system)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", s.Name(), err)
	}
	if user != nil {
		l.file = filepath.Join(b.base.StoreDir, "link.creds")
	}
	waiting, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	for told := false; ; told = true {
		l.place, err = link.Find(waiting, s)
		if _, absent := errors.AsType[net.Error](err); err == nil || !absent {
			break
		}
		if !told {
			b.log.WarnContext(ctx, "bus waits for the server elsewhere", slog.String(wire.KeyError, err.Error()))
		}
		select {
		case <-waiting.Done():
			return nil, fmt.Errorf("link to %w", err)
		case <-time.After(linkPause):
		}
	}
	if err != nil {
		return nil, fmt.Errorf("link to %w", err)
	}
	remote, err := s.Remote(l.place, l.file, ownControl, append([]string{ownReplies}, ownControl...))
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", s.Name(), err)
	}
	o := b.base
	o.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	o.LeafNode.ReconnectInterval = linkGlance
	o.ReconnectErrorReports = linkReports
	o.JetStream = false
	// Of two leaf nodes of one name, the server elsewhere throws out the first.
	o.ServerName += "-" + random()
	if most := l.place.MaxPayload; most > 0 {
		o.MaxPayload = min(o.MaxPayload, most) // a larger message would break the link
	}
	return l, nil
}

// arm leaves the credentials where the server reads them, each time that it connects.
func (l *toElsewhere) arm() error {
	if l == nil || l.file == "" {
		return nil
	}
	user, err := l.server.User("fairlead " + l.system)
	if err == nil {
		err = os.WriteFile(l.file, user, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write credentials of the link: %w", err)
	}
	return nil
}

// disarm removes them, when the server has ended and while the store is locked:
// another process writes them to the same place.
func (l *toElsewhere) disarm() error {
	if l == nil || l.file == "" {
		return nil
	}
	if err := os.Remove(l.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// redirect makes the permissions hold for what the server maps JetStream's API to.
func (l *toElsewhere) redirect(users []*server.User) {
	if l == nil {
		return
	}
	for _, u := range users {
		link.Redirect(l.place, u.Permissions)
	}
}

// problem is told every warning and error of the server's log, with locks of the
// server held.
func (b *Bus) problem(line string) {
	if l := b.link; l != nil && strings.Contains(strings.ToLower(line), linkNews) {
		l.mu.Lock()
		l.said = line
		l.mu.Unlock()
	}
	b.storeFailed(line)
}

// Store names the server elsewhere that keeps what the bus keeps, without a password;
// "" says that its own folder does.
func (b *Bus) Store() string {
	if b.link == nil {
		return ""
	}
	return b.link.server.Name()
}

// linked returns why the server elsewhere cannot be reached, nil if it can.
func (b *Bus) linked() error {
	s := b.server.Load()
	if s == nil || s.NumLeafNodes() > 0 {
		return nil // also while it is suspended, when nothing can be said
	}
	return b.link.broken(errors.New("it is not connected"))
}

// refused reports whether the server elsewhere knows us not.
func (l *toElsewhere) refused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.said, "Authorization Violation")
}

// broken is an error about the link, with what the server's log says of it.
func (l *toElsewhere) broken(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said != "" {
		err = fmt.Errorf("%w (%s)", err, l.said)
	}
	return fmt.Errorf("link to %s: %w", l.server.Name(), err)
}

// awaitLink returns when JetStream answers over the link, and nobody else uses it.
func (b *Bus) awaitLink(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	nc, err := b.Operator("link", nats.NoEcho())
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for {
		asking, done := context.WithTimeout(ctx, claimTime)
		_, err = js.AccountInfo(asking)
		done()
		if err == nil {
			return b.claim(ctx, nc)
		}
		if errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return fmt.Errorf("link to %s: the account may not use JetStream there", b.link.server.Name())
		}
		if b.link.refused() {
			return b.link.broken(errors.New("it does not let us in"))
		}
		select {
		case <-ctx.Done():
			return b.link.broken(fmt.Errorf("JetStream does not answer: %w", err))
		case <-time.After(linkPause):
		}
	}
}

// claim makes the account elsewhere ours, unless somebody answers that it is theirs.
// nc hears nothing of what it says itself.
func (b *Bus) claim(ctx context.Context, nc *nats.Conn) error {
	host, _ := os.Hostname() // else the process must do
	name := fmt.Sprintf("system %s, process %d on %s", b.link.system, os.Getpid(), host)
	_, err := nc.Subscribe(claim, func(m *nats.Msg) { _ = m.Respond([]byte(name)) }) // who asked may be gone
	if err != nil {
		return err
	}
	reply := claim + "." + random() // an inbox of ours is not told elsewhere
	answers, err := nc.SubscribeSync(reply)
	if err == nil {
		err = nc.PublishRequest(claim, reply, nil)
	}
	if err != nil {
		return err
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only on a closed connection
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	m, err := answers.NextMsgWithContext(ctx)
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return nil // whoever does not answer does not live
	case err != nil:
		return fmt.Errorf("link to %s: %w", b.link.server.Name(), err)
	default:
		return fmt.Errorf("link to %s: %w: %.256s", b.link.server.Name(), ErrElsewhereTaken, m.Data)
	}
}

// watchLink logs when the link breaks and when it stands again, until ctx ends.
func (b *Bus) watchLink(ctx context.Context) {
	ticker := time.NewTicker(linkGlance)
	defer ticker.Stop()
	for down := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := b.linked()
		switch {
		case err != nil && !down:
			b.log.WarnContext(ctx, "bus cannot reach its store", slog.String(wire.KeyError, err.Error()))
		case err == nil && down:
			b.log.InfoContext(ctx, "bus reaches its store again")
		}
		down = err != nil
	}
}

package gatekeeper

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
)

const (
	heard  = "$FLQ.js." // from clients to the gatekeeper
	onward = "$FLQ.do." // from it to JetStream; granted to nobody else

	pull = "next."
	info = "info."
	ack  = "ack."

	apiPull = "$JS.API.CONSUMER.MSG.NEXT."
	apiInfo = "$JS.API.CONSUMER.INFO."
	apiAck  = "$JS.ACK."
)

// Heard and Onward are all subjects of the gatekeeper's own.
const (
	Heard  = heard + ">"
	Onward = onward + ">"
)

const (
	// What waits for the gatekeeper is bounded. What is beyond is dropped: a message
	// that is not acknowledged is given again, and who pulls asks again.
	pendingLetters = 256 << 10
	pendingBytes   = 64 << 20
	// quiet is how often it is logged that something was dropped.
	quiet = time.Minute
	// mostPulled bounds what is remembered of who pulls.
	mostPulled = 4096
)

// Mapping is a pattern that the server maps, with where to.
type Mapping struct{ From, To string }

// Entrances are the patterns that clients reach by the gatekeeper only. Permissions
// hold for To, which is a pattern too.
func Entrances() []Mapping {
	return []Mapping{
		{apiPull + "*.*", heard + pull + "*.*"},
		{apiInfo + "*.*", heard + info + "*.*"},
		{apiAck + ">", heard + ack + ">"},
	}
}

// Mapped is what a subject or pattern within From of an entrance becomes.
func (e Mapping) Mapped(subject string) string {
	from, to := strings.TrimRight(e.From, ".*>"), strings.TrimRight(e.To, ".*>")
	return to + strings.TrimPrefix(subject, from)
}

// Mappings are what the server must map, before anything that overlaps: what clients
// publish to the gatekeeper, and what it passes on to JetStream. place, which may be
// nil, says where a subject of JetStream's API is, if not here.
func Mappings(place func(string) string) []Mapping {
	if place == nil {
		place = func(s string) string { return s }
	}
	const both = "{{wildcard(1)}}.{{wildcard(2)}}"
	return []Mapping{
		{apiPull + "*.*", heard + pull + both},
		{apiInfo + "*.*", heard + info + both},
		{apiAck + ">", heard + ack + ">"},
		{onward + pull + "*.*", place(apiPull + both)},
		{onward + info + "*.*", place(apiInfo + both)},
		{onward + ack + ">", apiAck + ">"},
	}
}

// Inbox reports whether a message may be answered on a subject: it is below own, the
// inboxes of whoever asks with the dot at their end, or where the operator and his
// tools await replies. If own is empty it is not known who asks, and any inbox will do:
// the names of another's are random, and told to those only who are to answer.
func Inbox(reply, own string) bool {
	if own == "" {
		own = wire.InboxPrefix + "."
	}
	return strings.HasPrefix(reply, own) || strings.HasPrefix(reply, wire.SharedInboxes+".") ||
		strings.HasPrefix(reply, wire.OperatorInboxes+".")
}

// Quiet removes the header by which the server is told to report what becomes of a
// message: it would report to wherever the header says, and for whoever passes the message
// on all subjects are open.
func Quiet(h nats.Header) {
	for key := range h {
		if strings.EqualFold(strings.TrimSpace(key), "Nats-Trace-Dest") {
			delete(h, key)
		}
	}
}

// Gatekeeper passes on what clients ask JetStream. Its methods are safe for concurrent
// use.
type Gatekeeper struct {
	log     *slog.Logger
	nc      *nats.Conn
	inboxes func(stream, consumer string) string
	link    bool

	dropped atomic.Uint64

	// Of the connection's goroutine only.
	logged time.Time
	pulled map[string]struct{} // with a link, consumers that our clients have pulled from
}

// Open starts a gatekeeper on a connection of its own with all permissions, which must
// not buffer what is published while it is broken off. It ends with the connection.
// inboxes says below what the owner of a consumer awaits replies, "" if nobody owns it.
//
// link says that the streams are elsewhere. A server there sends us also what its own
// clients acknowledge, because we map it. It has that already: what is about consumers
// that nobody owns, and nobody has pulled from here, is left alone.
func Open(nc *nats.Conn, inboxes func(stream, consumer string) string, link bool, log *slog.Logger) (*Gatekeeper, error) {
	g := &Gatekeeper{log: log, nc: nc, inboxes: inboxes, link: link, pulled: map[string]struct{}{}}
	// One subscription, so that a client's messages of all kinds stay in order.
	sub, err := nc.Subscribe(Heard, g.take)
	if err == nil {
		err = sub.SetPendingLimits(pendingLetters, pendingBytes)
	}
	if err == nil {
		err = nc.Flush() // when it returns, the server knows
	}
	if err != nil {
		return nil, fmt.Errorf("open gatekeeper: %w", err)
	}
	return g, nil
}

// Dropped is how many messages were not passed on.
func (g *Gatekeeper) Dropped() uint64 { return g.dropped.Load() }

// take is called for each message, one at a time.
func (g *Gatekeeper) take(m *nats.Msg) {
	rest := m.Subject[len(heard):]
	if g.link && !g.ours(rest) {
		return
	}
	if m.Reply != "" && !Inbox(m.Reply, g.inboxes(names(rest))) {
		g.drop(m)
		return
	}
	// Fails only while the connection is broken off: who asked gets no answer, and a
	// message that is not acknowledged is given again.
	_ = g.nc.PublishMsg(&nats.Msg{Subject: onward + rest, Reply: m.Reply, Data: m.Data})
}

// ours reports whether one of our clients sent a message, if the streams are
// elsewhere.
func (g *Gatekeeper) ours(rest string) bool {
	stream, consumer := names(rest)
	key := stream + "." + consumer
	if _, known := g.pulled[key]; known {
		return true
	}
	if strings.HasPrefix(rest, ack) {
		return g.inboxes(stream, consumer) != ""
	}
	if len(g.pulled) >= mostPulled {
		clear(g.pulled) // who still pulls comes again
	}
	g.pulled[key] = struct{}{}
	return true
}

// names are the stream and the consumer that a subject names after its first token.
func names(rest string) (stream, consumer string) {
	_, rest, _ = strings.Cut(rest, ".")
	stream, rest, _ = strings.Cut(rest, ".")
	consumer, _, _ = strings.Cut(rest, ".")
	return stream, consumer
}

func (g *Gatekeeper) drop(m *nats.Msg) {
	n := g.dropped.Add(1)
	if now := time.Now(); now.Sub(g.logged) >= quiet {
		g.logged = now
		g.log.Warn("an answer was to go where its asker may not publish",
			slog.String(wire.KeySubject, m.Subject), slog.String("reply", m.Reply), slog.Uint64("so_far", n))
	}
}

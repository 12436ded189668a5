package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/internal/gateway"
	"fairlead/internal/gateway/listen"
	"fairlead/internal/node/handover"
	"fairlead/internal/supervise"
	"fairlead/internal/wire"
)

// HandoverProtocol is the version of how one process takes over from another.
const HandoverProtocol = handover.Protocol

// ErrNotTaken is returned by [New] and [Node.Start] in a process that was started to
// take over and did not. The former process knows why, and goes on.
var ErrNotTaken = errors.New("the system was not taken over")

// Offer is what the former process offers to the one that is to take over.
type Offer struct {
	conn    *handover.Conn
	offer   offer
	lock    *os.File
	control *os.File
	doors   []listen.Socket
}

// Offered returns what this process was started to take over; nil if a person or
// something else started it.
func Offered() (*Offer, error) {
	conn, err := handover.Inherited()
	if conn == nil || err != nil {
		return nil, err
	}
	m, files, err := conn.Receive()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over: %w", err), conn.Close())
	}
	o := &Offer{conn: conn}
	if err := m.Decode(&o.offer); err != nil || m.Kind != sayOffer || len(files) != 2+len(o.offer.Doors) {
		return nil, o.refuse(fmt.Errorf("the offer is not understood: %s with %d files", m.Kind, len(files)))
	}
	o.lock, o.control = files[0], files[1]
	for i, address := range o.offer.Doors {
		o.doors = append(o.doors, listen.Socket{Address: address, File: files[2+i]})
	}
	return o, nil
}

// File returns the system's file.
func (o *Offer) File() string { return o.offer.File }

// Data returns the system's data folder.
func (o *Offer) Data() string { return o.offer.Data }

// refuse tells the former process why this one does not take over.
func (o *Offer) refuse(why error) error {
	_ = o.conn.Send(sayFailed, why.Error()) // if nobody listens, nobody is to be told
	_ = o.conn.Close()
	return fmt.Errorf("%w: %w", ErrNotTaken, why)
}

// newFromOffer is [New] for a process that is to take over: it loads the revisions
// that run, whatever the file holds now.
func newFromOffer(opts Options) (*Node, error) {
	n, err := loadOffer(opts)
	if err != nil {
		return nil, opts.Offer.refuse(err)
	}
	return n, nil
}

func loadOffer(opts Options) (*Node, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	o := opts.Offer.offer
	opts.Listen, opts.Watch = o.Listen, o.Watch
	if o.Keeper != supervise.KeeperProtocol {
		return nil, fmt.Errorf("the keeper speaks version %d, this program %d", o.Keeper, supervise.KeeperProtocol)
	}
	if err := fault("load"); err != nil {
		return nil, err
	}
	n := newNode(opts, o.File, o.Data)
	n.started, n.runs, n.overrides = o.Started, o.Runs, o.Overrides
	if len(o.IdentityKey) != ed25519.SeedSize {
		return nil, errors.New("the identity key is missing")
	}
	n.identity = ed25519.NewKeyFromSeed(o.IdentityKey)
	for _, r := range o.Revisions {
		rev, err := n.load(r.Record)
		if err != nil {
			return nil, err
		}
		n.host.allow(&grants{rev: rev, secrets: r.Secrets, urls: r.URLs})
	}
	g := n.host.grants[o.Applied]
	if g == nil {
		return nil, fmt.Errorf("revision %d, which runs, is missing", o.Applied)
	}
	n.first = g.rev.sys
	if err := n.keepPrivate(n.first); err != nil {
		return nil, err
	}
	return n, nil
}

// takeOver is [Node.Start] for a process that takes over. If it fails, it ends what
// it has opened itself and nothing else: what is registered for Stop is still the
// former process's.
func (n *Node) takeOver(ctx context.Context) error {
	from := n.opts.Offer
	if err := from.conn.Send(sayReady, n.opts.Version); err != nil {
		return from.refuse(err)
	}
	m, files, err := from.conn.Receive()
	if err != nil || m.Kind != sayTake || len(files) != 1 {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the former process goes on")
		}
		return from.refuse(err)
	}
	var t taking
	if err := m.Decode(&t); err != nil {
		return from.refuse(err)
	}
	at, err := n.take(ctx, t, files[0])
	if err != nil {
		if n.gate != nil {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), exitBound/2)
			defer cancel()
			err = errors.Join(err, n.gate.Stop(stopping))
		}
		if n.bus != nil {
			err = errors.Join(err, n.bus.Close(context.WithoutCancel(ctx)))
		}
		return from.refuse(err)
	}
	// A former process that was killed meanwhile hears nothing, and we go on.
	_ = from.conn.Send(sayTaken, n.opts.Version)
	n.former.start()
	n.serveControl()
	if n.opts.Watch {
		if err := n.follow(ctx); err != nil {
			n.tell(control.Event{Kind: control.EventWarning, Text: "what is saved is not applied any more: " + err.Error()})
		}
	}
	n.launched.Store(true)
	notify("READY=1")
	if err := fault("taken"); err != nil {
		n.log.ErrorContext(ctx, "fault", wire.KeyError, err)
	}
	n.returning.Go(func() { n.settle(context.WithoutCancel(ctx), t.Instances.Serving(), at) })
	return nil
}

// taken is the moment in which a process took over.
type taken struct {
	bus  time.Time // when it was open again
	mark gateway.Mark
}

// take opens what the former process has closed, and adopts what lives.
func (n *Node) take(ctx context.Context, t taking, link *os.File) (at taken, err error) {
	adopted := false
	defer func() {
		if !adopted {
			_ = link.Close() // the former process has its own
		}
	}()
	if err := fault("bus"); err != nil {
		return at, err
	}
	n.lock = ownedLock(n.opts.Offer.lock)
	n.ownLock()
	if err := n.openBus(ctx, bus.Options{Model: n.first, Former: t.Bus}); err != nil {
		return at, err
	}
	at.bus = time.Now()
	if err := fault("state"); err != nil {
		return at, err
	}
	if err := n.openDoor(ctx, n.opts.Offer.doors); err != nil {
		return at, err
	}
	n.gate.HoldBus()
	n.host.inherit(t)
	g := n.host.grants[n.opts.Offer.offer.Applied]
	if err := n.users.follow(ctx, g.rev.sys, g.secrets); err != nil {
		return at, err
	}
	if err := n.swap(g.rev, t.Instances.Serving(), nil); err != nil { //nolint:contextcheck // certificates live on after ctx
		return at, err
	}
	n.newSupervisor()
	if err := n.openControl(n.opts.Offer.control); err != nil {
		return at, err
	}
	n.ownServices()
	n.former = newFormer(n.opts.Offer.conn)
	n.onStop("former process", n.former.finish)
	n.onStop("gateway", n.gate.Stop)
	at.mark = n.gate.Mark()
	if err := n.gate.Start(ctx); err != nil {
		return at, err
	}
	if err := fault("door"); err != nil {
		return at, err
	}
	adopted = true                                         // by now, or closed
	if err := n.sup.Adopt(t.Instances, link); err != nil { //nolint:contextcheck // the instances live on after ctx
		return at, err
	}
	// From here on there is no way back: the keeper has told us what it will not
	// tell the former process again.
	if err := n.lock.announce(n.gate.URL()); err != nil {
		n.log.WarnContext(ctx, "the lock does not name this process", wire.KeyError, err)
	}
	return at, nil
}

// settle brings the services back, and tells the former process.
func (n *Node) settle(ctx context.Context, serving map[string][]supervise.Instance, at taken) {
	missing := n.comeBack(ctx, serving, func(services ...string) {
		n.bus.Deliver(services...)
		n.gate.ReleaseBus(services...)
		n.former.say(sayRelease, told{Services: services})
	})
	seen := n.gate.Since(at.mark)
	for _, id := range missing {
		n.tell(control.Event{Kind: control.EventWarning, Instance: id, Text: id + " has not come back to the bus"})
	}
	n.former.say(saySettled, settlement{
		BusAt: at.bus, Held: n.gate.LongestHold(), Missing: missing,
		Requests: seen.Requests, Failed: seen.Failed, Stall: seen.Stall,
	})
}

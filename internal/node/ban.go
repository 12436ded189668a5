package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"fairlead/internal/control"
	"fairlead/internal/gateway"
)

const (
	mostBans    = 10_000
	mostReason  = 200 // bytes
	banPrefix   = "ban."
	unmapLength = 96 // bits before the IPv4 address in ::ffff:0:0/96
)

// bans is the ban list: in the state, so that it survives, and in the door. A
// change is stored before it holds.
type bans struct {
	state *state
	door  func([]gateway.Ban)

	mu  sync.Mutex // guards all; held while a change is stored
	all map[netip.Prefix]control.Ban
}

// openBans gives the door the bans that hold still.
func openBans(ctx context.Context, s *state, door func([]gateway.Ban)) (*bans, error) {
	list, err := s.bans(ctx)
	if err != nil {
		return nil, err
	}
	b := &bans{state: s, door: door, all: make(map[netip.Prefix]control.Ban, len(list))}
	for _, one := range list {
		b.all[one.Network] = one
	}
	b.announce()
	return b, nil
}

// announce tells the door. The mutex is held, or nobody else knows b yet.
func (b *bans) announce() {
	list := make([]gateway.Ban, 0, len(b.all))
	for _, one := range b.all {
		list = append(list, gateway.Ban{Prefix: one.Network, Until: one.Until, Reason: one.Reason})
	}
	b.door(list)
}

// over reports whether a ban has ended.
func over(b control.Ban, now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// prune removes the bans that are over from the state. What cannot be removed now
// is the next time. The mutex is held.
func (b *bans) prune(ctx context.Context, now time.Time) {
	for network, one := range b.all {
		if over(one, now) && b.state.remove(ctx, banKey(network)) == nil {
			delete(b.all, network)
		}
	}
}

func (b *bans) ban(ctx context.Context, req control.BanRequest, _ func(control.Event)) (control.Ban, error) {
	now := time.Now()
	network, err := netOf(req.Network)
	switch {
	case err != nil:
		return control.Ban{}, err
	case len(req.Reason) > mostReason || !utf8.ValidString(req.Reason) || strings.ContainsFunc(req.Reason, unicode.IsControl):
		return control.Ban{}, &control.Error{Code: control.CodeBadRequest, Message: fmt.Sprintf("the reason must be one line of at most %d bytes", mostReason)}
	case !req.Until.IsZero() && !now.Before(req.Until):
		return control.Ban{}, &control.Error{Code: control.CodeBadRequest, Message: "the ban would be over already"}
	case !req.Force && slices.ContainsFunc(loopbacks, network.Overlaps):
		return control.Ban{}, &control.Error{
			Code: control.CodeConflict, Message: networkText(network) + " " + ofMachine(network) + " of this machine itself; whatever runs here would be kept out of the door",
			Hint: "say --force if that is meant",
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(ctx, now)
	if _, known := b.all[network]; !known && len(b.all) >= mostBans {
		return control.Ban{}, &control.Error{
			Code: control.CodeConflict, Message: fmt.Sprintf("there are %d bans already, and no more are kept", mostBans),
			Hint: "ban larger networks instead, or lift some: fairlead bans",
		}
	}
	one := control.Ban{Network: network, Since: now, Until: req.Until, Reason: req.Reason}
	if err := b.state.put(ctx, banKey(network), one); err != nil {
		return control.Ban{}, err
	}
	b.all[network] = one
	b.announce()
	return one, nil
}

// loopbacks are the addresses of the machine that the node runs on.
var loopbacks = []netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), netip.PrefixFrom(netip.IPv6Loopback(), 128),
}

func (b *bans) unban(ctx context.Context, req control.UnbanRequest, _ func(control.Event)) (control.Ban, error) {
	network, err := netOf(req.Network)
	if err != nil {
		return control.Ban{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.prune(ctx, now)
	one, ok := b.all[network]
	if !ok || over(one, now) {
		e := &control.Error{Code: control.CodeNotFound, Message: "there is no ban of " + networkText(network), Hint: "fairlead bans lists all"}
		for other := range b.all {
			if other.Overlaps(network) {
				e.Hint = "there is one of " + networkText(other)
			}
		}
		return control.Ban{}, e
	}
	if err := b.state.remove(ctx, banKey(network)); err != nil {
		return control.Ban{}, err
	}
	delete(b.all, network)
	b.announce()
	return one, nil
}

func (b *bans) list(context.Context, control.Empty, func(control.Event)) ([]control.Ban, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	list := slices.DeleteFunc(slices.Collect(maps.Values(b.all)), func(one control.Ban) bool { return over(one, now) })
	slices.SortFunc(list, func(x, y control.Ban) int {
		return cmp.Or(x.Network.Addr().Compare(y.Network.Addr()), cmp.Compare(x.Network.Bits(), y.Network.Bits()))
	})
	return list, nil
}

// netOf returns the one spelling of a network.
func netOf(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, &control.Error{Code: control.CodeBadRequest, Message: "a ban needs an address or a network"}
	}
	if p.Addr().Is4In6() && p.Bits() >= unmapLength {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-unmapLength)
	}
	return p.Masked(), nil
}

// banKey is where the state keeps a ban. Colons may not stand in a key, and dots
// would divide it.
func banKey(p netip.Prefix) string {
	return banPrefix + hex.EncodeToString(p.Addr().AsSlice()) + "-" + strconv.Itoa(p.Bits())
}

// bans returns all that are kept.
func (s *state) bans(ctx context.Context) (list []control.Ban, err error) {
	w, err := s.kv.Watch(ctx, banPrefix+"*", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list bans: %w", err)
	}
	defer func() { err = errors.Join(err, w.Stop()) }()
	for {
		select {
		case e := <-w.Updates():
			if e == nil { // that was all
				return list, nil
			}
			var one control.Ban
			if err := json.Unmarshal(e.Value(), &one); err != nil {
				return nil, fmt.Errorf("read state %s: %w", e.Key(), err)
			}
			list = append(list, one)
		case <-ctx.Done():
			return nil, fmt.Errorf("list bans: %w", ctx.Err())
		}
	}
}

func ofMachine(p netip.Prefix) string {
	if p.IsSingleIP() {
		return "is an address"
	}
	return "holds addresses"
}

// networkText writes a network of one address as that address.
func networkText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

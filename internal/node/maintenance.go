package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/system"
)

const (
	maintenanceKey  = "maintenance" // of the state: what the operator decided, by route
	maintenanceText = 1000          // longest text in characters, as in the file
)

// maintenance closes the door or a route for maintenance, or opens it. This is
// recorded, and lasts until the opposite is asked for or the file changes what it
// says there itself.
func (n *Node) maintenance(ctx context.Context, req control.MaintenanceRequest, tell func(control.Event)) ([]control.Maintenance, error) {
	release, err := n.begin(ctx, tell)
	if err != nil {
		return nil, err
	}
	defer release()
	said, err := n.maintenanceOf(req.Route)
	if err != nil {
		return nil, err
	}
	decided := maps.Clone(n.closures())
	switch {
	case req.On:
		if _, err := readMaintenance(control.Maintenance{Text: req.Text, Allow: req.Allow}); err != nil {
			return nil, &control.Error{Code: control.CodeBadRequest, Message: err.Error()}
		}
		decided[req.Route] = control.Maintenance{Route: req.Route, On: true, Text: req.Text, Allow: req.Allow, Since: time.Now()}
	case said != nil: // against the file
		decided[req.Route] = control.Maintenance{Route: req.Route, Since: time.Now()}
	default:
		delete(decided, req.Route)
	}
	if err := n.recordMaintenance(ctx, decided); err != nil {
		return nil, err
	}
	return n.maintenanceStatus(), nil
}

// maintenanceOf returns what the file says of a route, or of the door for "".
func (n *Node) maintenanceOf(key string) (*system.Maintenance, error) {
	sys := n.System()
	if key == "" {
		return sys.Gateway.Maintenance, nil
	}
	r, ok := sys.Route(key)
	if ok {
		return r.Maintenance, nil
	}
	keys := make([]string, len(sys.Routes))
	for i := range sys.Routes {
		keys[i] = sys.Routes[i].Key
	}
	return nil, &control.Error{
		Code: control.CodeNotFound, Message: fmt.Sprintf("there is no route %q", key),
		Hint: "the routes are " + strings.Join(keys, ", "),
	}
}

// closures is what the operator decided. It is replaced as a whole.
func (n *Node) closures() map[string]control.Maintenance {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// recordMaintenance writes down what the operator decided, and tells the door.
func (n *Node) recordMaintenance(ctx context.Context, decided map[string]control.Maintenance) error {
	if err := n.state.put(ctx, maintenanceKey, decided); err != nil {
		return err
	}
	n.takeMaintenance(decided)
	return nil
}

func (n *Node) takeMaintenance(decided map[string]control.Maintenance) {
	n.mu.Lock()
	n.closed = decided
	n.mu.Unlock()
	door := make(map[string]*system.Maintenance, len(decided))
	for key, m := range decided {
		door[key] = nil
		if m.On {
			// What was recorded has been read before; a text alone closes, too.
			door[key], _ = readMaintenance(m)
		}
	}
	n.gate.SetMaintenance(door)
}

func readMaintenance(m control.Maintenance) (*system.Maintenance, error) {
	out := &system.Maintenance{Text: m.Text}
	if strings.ContainsFunc(m.Text, func(c rune) bool { return c < ' ' }) || len([]rune(m.Text)) > maintenanceText {
		return out, fmt.Errorf("the text must be one line of at most %d characters", maintenanceText)
	}
	for _, s := range m.Allow {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return out, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", s)
		}
		out.Allow = append(out.Allow, p)
	}
	return out, nil
}

// loadMaintenance takes up what was decided before this process began.
func (n *Node) loadMaintenance(ctx context.Context) error {
	decided := map[string]control.Maintenance{}
	if _, err := n.state.get(ctx, maintenanceKey, &decided); err != nil {
		return err
	}
	n.takeMaintenance(decided)
	return nil
}

// keepMaintenance drops what was decided about routes that are gone, and about
// what the next revision's file says otherwise than the old one's.
func (n *Node) keepMaintenance(ctx context.Context, old, next *system.System) error {
	kept := maps.Clone(n.closures())
	for key := range kept {
		was, is := old.Gateway.Maintenance, next.Gateway.Maintenance
		if key != "" {
			before, _ := old.Route(key)
			after, ok := next.Route(key)
			if before == nil || !ok {
				delete(kept, key)
				continue
			}
			was, is = before.Maintenance, after.Maintenance
		}
		if !sameMaintenance(was, is) {
			delete(kept, key)
		}
	}
	if len(kept) == len(n.closures()) {
		return nil
	}
	return n.recordMaintenance(ctx, kept)
}

func sameMaintenance(a, b *system.Maintenance) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Text == b.Text && slices.Equal(a.Allow, b.Allow)
}

// maintenanceStatus lists what is closed, and what was opened by hand, the door
// first.
func (n *Node) maintenanceStatus() []control.Maintenance {
	list := []control.Maintenance{}
	decided := n.closures()
	add := func(key string, said *system.Maintenance) {
		if m, ok := decided[key]; ok {
			list = append(list, m)
		} else if said != nil {
			m := control.Maintenance{Route: key, On: true, Text: said.Text}
			for _, p := range said.Allow {
				m.Allow = append(m.Allow, p.String())
			}
			list = append(list, m)
		}
	}
	sys := n.System()
	add("", sys.Gateway.Maintenance)
	for i := range sys.Routes {
		add(sys.Routes[i].Key, sys.Routes[i].Maintenance)
	}
	return list
}

// ticketKey returns the key of the cookies that sticky routes set. It is kept, so
// that clients stay with their instances when another process takes over.
func ticketKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, "sticky.key")
	key, err := os.ReadFile(path)
	if err == nil && len(key) >= 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key of sticky routes: %w", err)
	}
	key = make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	if err := os.WriteFile(path, key, 0o600); err != nil {
		return nil, fmt.Errorf("write key of sticky routes: %w", err)
	}
	return key, nil
}

package bus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Inboxes. Whoever may subscribe to a prefix reads every reply below it, so each
// party has one of its own; see docs/decisions/0011.
const (
	gatewayInboxes  = wire.InboxPrefix + ".gateway"
	operatorInboxes = wire.OperatorInboxes
	sharedInboxes   = wire.SharedInboxes
)

// party is a service as far as permissions are concerned.
type party struct {
	service string
	bus     *system.ServiceBus
}

// Permissions derives what an instance of a service may do on the bus. It is a
// pure function of the model: the same model gives the same lists, sorted and
// without duplicates. The consumers that it was given since are not among it.
//
// With draining, all subscriptions but those of its inbox and of what the node tells it
// are gone; what it may
// publish stays, so that the replies it owes arrive. It returns an error if the
// service is unknown, has no bus section, or if a name or subject could not
// safely become a permission.
func Permissions(sys *system.System, service, instance string, draining bool) (*server.Permissions, error) {
	s, ok := sys.Service(service)
	if !ok {
		return nil, fmt.Errorf("derive permissions: %w %q", ErrUnknownService, service)
	}
	if s.Bus == nil {
		return nil, fmt.Errorf("derive permissions: service %q: %w", service, ErrNoBus)
	}
	p, err := derive(party{service, s.Bus}, instance, parties(sys), draining)
	if err == nil {
		grantQueues(p.Publish, s.Bus.Publishes, sys)
		grantDesk(p, instance)
	}
	return p, err
}

// parties lists the services of the model that have a bus section.
func parties(sys *system.System) []party {
	if sys == nil {
		return nil
	}
	var ps []party
	for i := range sys.Services {
		if s := &sys.Services[i]; s.Bus != nil {
			ps = append(ps, party{s.Name, s.Bus})
		}
	}
	return ps
}

// derive gives an instance of p its permissions among peers, which include p's
// own service if it may ask itself.
func derive(p party, instance string, peers []party, draining bool) (*server.Permissions, error) {
	if err := checkParty(p, instance); err != nil {
		return nil, fmt.Errorf("derive permissions: service %q: %w", p.service, err)
	}

	// Replies to the operator's tools: micro's discovery answers them, whatever
	// else the service does.
	publish := []string{operatorInboxes + ".>", sharedInboxes + ".>"}
	publish = append(publish, p.bus.Asks...)
	publish = append(publish, p.bus.Publishes...)
	if len(p.bus.Answers) > 0 {
		publish = append(publish, gatewayInboxes+".>")
		for _, q := range peers {
			// The inboxes of a service are in the shared space if it cannot
			// set a prefix, which everyone may reply to already.
			if overlapAny(q.bus.Asks, p.bus.Answers) {
				publish = append(publish, wire.InboxPrefix+"."+q.service+".>")
			}
		}
	}

	// The inbox is always granted: an empty list would allow everything.
	subscribe := []string{wire.InboxPrefix + "." + p.service + "." + instance + ".>", wire.SubjectHold + instance}
	if p.bus.SharedInbox {
		subscribe = append(subscribe, sharedInboxes+".>")
	}
	if !draining {
		for _, s := range p.bus.Answers {
			if p.bus.Group != "" {
				s += " " + p.bus.Group
			}
			subscribe = append(subscribe, s)
		}
		subscribe = append(subscribe, p.bus.Subscribes...)
		for _, verb := range []string{"PING", "INFO", "STATS"} {
			v := "$SRV." + verb
			subscribe = append(subscribe, v, v+"."+p.service, v+"."+p.service+".*")
		}
	}
	perms := &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: sorted(publish)},
		Subscribe: &server.SubjectPermission{Allow: sorted(subscribe)},
	}
	if !draining {
		perms.Subscribe.Deny = beyondStars(slices.Concat(p.bus.Answers, p.bus.Subscribes))
	}
	return perms, nil
}

// beyondStars lists what to deny to those who are granted patterns that end in
// `*`. The server compares the subject of a subscription with what is granted as
// if it were a message's, so that "time.*" grants a subscription on "time.>". A
// denial is also looked up for each message, and keeps those with more tokens
// away: granted "time.*", denied "time.*.>".
//
// Where something else is granted below the star, nothing can be denied without
// denying that too; the service then hears all that lies below.
func beyondStars(granted []string) []string {
	var deny []string
	for _, g := range granted {
		if !strings.HasSuffix(g, ".*") {
			continue
		}
		beyond := g + ".>"
		if !slices.ContainsFunc(granted, func(o string) bool { return Overlap(o, beyond) }) {
			deny = append(deny, beyond)
		}
	}
	return sorted(deny)
}

func checkParty(p party, instance string) error {
	if err := checkToken("service", p.service); err != nil {
		return err
	}
	if err := checkToken("instance", instance); err != nil {
		return err
	}
	if g := p.bus.Group; g != "" {
		if strings.ContainsFunc(g, unsafeRune) || strings.ContainsAny(g, "*>") {
			return fmt.Errorf("group %q holds a wildcard, white space or a control character", g)
		}
		if strings.HasPrefix(g, ".") || strings.HasSuffix(g, ".") || strings.Contains(g, "..") {
			return fmt.Errorf("group %q holds an empty token", g)
		}
	}
	for _, l := range []struct {
		subjects []string
		dollar   bool // JetStream's API and micro's discovery may be asked if the file says so
	}{
		{p.bus.Answers, false},
		{p.bus.Asks, true},
		{p.bus.Publishes, false},
		{p.bus.Subscribes, false},
	} {
		for _, s := range l.subjects {
			if err := checkSubject(s, l.dollar); err != nil {
				return err
			}
		}
	}
	return nil
}

// gatewayPermissions lets the gateway ask what is answered, and the subject that
// the signing keys are asked on, and read its own replies.
func gatewayPermissions(inbox, jwks string, peers []party) *server.Permissions {
	// An empty list would allow everything; nobody listens on the inbox but the
	// gateway itself.
	publish := []string{inbox + ".>"}
	for _, p := range peers {
		publish = append(publish, p.bus.Answers...)
	}
	if jwks != "" {
		publish = append(publish, jwks)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: sorted(publish)},
		Subscribe: &server.SubjectPermission{Allow: []string{inbox + ".>"}},
	}
}

// jwksSubject is the subject of `jwks: bus:<subject>`, "" for none.
func jwksSubject(sys *system.System) string {
	if sys == nil || sys.Gateway.Auth.JWT == nil {
		return ""
	}
	subject, ok := strings.CutPrefix(sys.Gateway.Auth.JWT.JWKS, "bus:")
	if !ok {
		return ""
	}
	return subject
}

func sorted(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

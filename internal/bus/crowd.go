package bus

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fairlead/internal/wire"
)

const (
	// maxConnections is how many connections of the server there may be.
	maxConnections = 4096
	// perInstance is how many of them one instance may have for long.
	perInstance = 64
	// strangers is how many may be in their handshake for long.
	strangers = 1024
	// roll is how often they are counted. A client opens some 2000 a second, so
	// that those of one are cut long before the server refuses those of others.
	roll = 100 * time.Millisecond
)

// thinCrowds keeps one client from taking all connections of the server, until ctx
// ends: the youngest of an instance above perInstance are cut, and the oldest of
// those that have not said who they are above strangers. The server has such a
// limit only for accounts, and all instances share one.
func (b *Bus) thinCrowds(ctx context.Context) {
	ticker := time.NewTicker(roll)
	defer ticker.Stop()
	told := make(map[string]time.Time)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s := b.server.Load(); s == nil || s.NumClients() <= perInstance {
			continue // no crowd among them
		}
		for user, cut := range b.cutCrowds() {
			if time.Since(told[user]) < quiet {
				continue
			}
			if len(told) >= remembered {
				clear(told)
			}
			told[user] = time.Now()
			b.log.WarnContext(ctx, "bus cuts connections above the limit",
				slog.String(wire.KeyInstance, user), slog.Int("cut", cut))
		}
	}
}

// cutCrowds cuts what is too much and returns how many it cut of each instance, by
// its id; "" stands for those that have not said who they are.
func (b *Bus) cutCrowds() map[string]int {
	z, err := b.connz(&server.ConnzOptions{Username: true, Limit: maxConnections})
	if err != nil {
		return nil // closing
	}
	ours := map[string]bool{b.operator.User: true, b.publisher.User: true, b.tools.User: true, b.gateway.User: true}
	byUser := make(map[string][]*server.ConnInfo)
	for _, c := range z.Conns {
		byUser[c.AuthorizedUser] = append(byUser[c.AuthorizedUser], c)
	}
	cut := make(map[string]int)
	for user, conns := range byUser {
		if ours[user] {
			continue
		}
		for _, c := range tooMany(user, conns) {
			if s := b.server.Load(); s != nil && s.DisconnectClientByID(c.Cid) == nil { // else it is gone already
				cut[user]++
			}
		}
	}
	return cut
}

// tooMany are those of a user's connections that are to be cut.
func tooMany(user string, conns []*server.ConnInfo) []*server.ConnInfo {
	slices.SortFunc(conns, func(a, b *server.ConnInfo) int { return cmp.Compare(a.Cid, b.Cid) })
	if user == "" {
		return conns[:max(0, len(conns)-strangers)]
	}
	return conns[min(perInstance, len(conns)):]
}

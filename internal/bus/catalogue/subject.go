package catalogue

import (
	"fmt"
	"strings"

	"fairlead/internal/system"
)

// The ways of a message, each before the subject that it was published on.
const (
	Incoming = "$FLQ.in."      // from publishers to the checker
	Accepted = "$FLQ.ok."      // into the queue's stream; nobody but the node may publish there
	Keys     = "$FLQ.key."     // into the queue's stream too: markers of what was stored, see [Committer]
	Dead     = "$FLQ.dead."    // into the dead letters
	Refused  = "$FLQ.refused." // advisories: JSON of [Refusal]
	Told     = "$FLQ.new."     // from a stream elsewhere to us: what it has stored
	kept     = "$FLQ.kept."    // of the streams of queues that are not in the file any more
)

// Stream is the name of the stream of a queue: data_vhf for data.vhf, activity_ANY
// for activity.*, orders_ALL for orders.>. A _ of the queue becomes a =, so that no
// two queues have the same.
func Stream(queue string) string {
	tokens := strings.Split(strings.ReplaceAll(queue, "_", "="), ".")
	for i, t := range tokens {
		switch t {
		case "*":
			tokens[i] = "ANY"
		case ">":
			tokens[i] = "ALL"
		}
	}
	return strings.Join(tokens, "_")
}

// Mappings are the subjects that the server must map, with where to: those of the
// queues to the checker and, where the streams are elsewhere, what these say that
// they have stored to the queues' subjects. On the subjects themselves they cannot say
// it: the server would take that for a message to store.
func Mappings(queues []system.Queue, elsewhere bool) map[string]string {
	m := map[string]string{}
	for i := range queues {
		name := queues[i].Name
		m[name] = Incoming + references(name)
		if elsewhere {
			m[Told+name] = references(name)
		}
	}
	return m
}

// references is a pattern as the destination of a mapping from itself.
func references(pattern string) string {
	tokens := strings.Split(pattern, ".")
	n := 0
	for i, t := range tokens {
		if t == "*" {
			n++
			tokens[i] = fmt.Sprintf("{{wildcard(%d)}}", n)
		}
	}
	return strings.Join(tokens, ".")
}

package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"fairlead/internal/control"
	"fairlead/internal/system"
	schemas "fairlead/internal/system/message"
)

// mostBreaks is how many of the breaks of types are told at once.
const mostBreaks = 20

// typeBreak is what changes for those who rely on the type of queues.
type typeBreak struct {
	text   string
	queues []string
}

// typeBreaks compares the types of the queues that both models have.
func typeBreaks(old, next *system.System) ([]typeBreak, error) {
	var all []typeBreak
	compared := map[[2]string][]int{} // places in all, by the names of two types
	for i := range next.Queues {
		q := &next.Queues[i]
		j := slices.IndexFunc(old.Queues, func(o system.Queue) bool { return o.Name == q.Name })
		if j < 0 || old.Queues[j].Type == "" {
			continue // nobody was promised anything
		}
		was, had := old.Type(old.Queues[j].Type)
		is, has := next.Type(q.Type)
		if !had {
			continue
		}
		if !has {
			all = append(all, typeBreak{fmt.Sprintf("queue %s has no type any more: consumers may get anything", q.Name), []string{q.Name}})
			continue
		}
		pair := [2]string{was.Name, is.Name}
		if places, done := compared[pair]; done {
			for _, at := range places {
				all[at].queues = append(all[at].queues, q.Name)
			}
			continue
		}
		breaks, err := schemas.Breaks(was.Schema, is.Schema)
		if err != nil {
			return nil, fmt.Errorf("compare type %s: %w", is.Name, err)
		}
		compared[pair] = nil
		for _, b := range breaks {
			compared[pair] = append(compared[pair], len(all))
			all = append(all, typeBreak{"type " + is.Name + ": " + b.String(), []string{q.Name}})
		}
	}
	return all, nil
}

// textOf joins the first breaks.
func textOf(all []typeBreak, sep string) string {
	lines := make([]string, 0, mostBreaks+1)
	for _, b := range all[:min(len(all), mostBreaks)] {
		lines = append(lines, b.text)
	}
	if more := len(all) - mostBreaks; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, sep)
}

// checkTypes refuses what would break those who rely on the types in force.
func checkTypes(old, next *system.System) error {
	broken, err := typeBreaks(old, next)
	if err != nil || len(broken) == 0 {
		return err
	}
	return &control.Error{
		Code:    control.CodeConflict,
		Message: "the change of a type would break those who rely on it:\n" + textOf(broken, "\n"),
		Hint:    "add a new optional property, or a new type and queue; or say fairlead reload --force-types",
	}
}

// warnTypes tells of types whose change breaks what is stored, where nothing refuses
// it: at a start, and by a rollback.
func (n *Node) warnTypes(ctx context.Context, old, next *system.System) {
	broken, err := typeBreaks(old, next)
	if err == nil && len(broken) > 0 {
		broken, err = n.withMessages(ctx, broken)
	}
	if err != nil {
		n.tell(control.Event{Kind: control.EventWarning, Text: "the types are not compared with those of before: " + err.Error()})
		return
	}
	if len(broken) == 0 {
		return
	}
	n.tell(control.Event{
		Kind: control.EventWarning,
		Text: "a type has changed in a way that breaks messages which are stored, or those who read them: " + textOf(broken, "; "),
	})
}

// withMessages returns the breaks that concern queues with messages, and how many
// they hold.
func (n *Node) withMessages(ctx context.Context, broken []typeBreak) ([]typeBreak, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	_, states, err := n.queueStates(ctx)
	if err != nil {
		return nil, err
	}
	var out []typeBreak
	for _, b := range broken {
		var held []string
		for _, s := range states {
			if s.Messages > 0 && slices.Contains(b.queues, s.Queue) {
				held = append(held, fmt.Sprintf("%d stored in %s", s.Messages, s.Queue))
			}
		}
		if len(held) > 0 {
			out = append(out, typeBreak{b.text + " (" + strings.Join(held, ", ") + ")", b.queues})
		}
	}
	return out, nil
}

// warnChangedTypes compares the types of a start with those of what ran last. A
// revision that cannot be read any more is no reason not to start.
func (n *Node) warnChangedTypes(ctx context.Context, last record, next *system.System) {
	old, err := n.load(last)
	if err != nil {
		n.tell(control.Event{Kind: control.EventWarning, Text: "the types are not compared with those of before: " + err.Error()})
		return
	}
	n.warnTypes(ctx, old.sys, next)
}

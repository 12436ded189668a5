package system

import (
	"slices"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var serviceBusSchema = schema{what: "a service's bus", keys: []string{"group", "format", "inbox", "answers", "asks", "publishes", "subscribes"}}

func (r *reader) readServiceBus(service string, n *document.Node) *ServiceBus {
	f := r.fields(n, serviceBusSchema)
	out := &ServiceBus{}
	if group := f["group"]; group != nil {
		if s, ok := r.text(group); ok && !notation.IsWord(s, "._-") {
			r.rec.add(group.At, group.Path, badName, wording.Quote(s), "a name of letters, digits and . _ -, at most 64", "")
		} else if ok {
			out.Group = s
		}
	}
	out.Format = Format(r.oneOf(f["format"], string(Raw), string(Raw), string(Nest)))
	out.SharedInbox = r.oneOf(f["inbox"], "private", "private", "shared") == "shared"
	out.Answers = r.subjects(f["answers"], false)
	out.Asks = r.subjects(f["asks"], true)
	out.Publishes = r.subjects(f["publishes"], false)
	out.Subscribes = r.subjects(f["subscribes"], false)
	for _, s := range out.Answers {
		r.answers = append(r.answers, answer{service, s})
	}
	return out
}

// subjects reads a list of subjects that are granted on the bus. dollar allows those
// of NATS's discovery of services.
func (r *reader) subjects(n *document.Node, dollar bool) []string {
	var out []string
	for _, item := range r.texts(r.patternsAsText(n), false) {
		if s, ok := r.subject(item, dollar); ok {
			out = append(out, s)
		}
	}
	return out
}

// patternsAsText makes JSON text of the NestJS patterns that stand as maps in a list
// of subjects.
func (r *reader) patternsAsText(n *document.Node) *document.Node {
	if n == nil || n.Kind != document.List || !slices.ContainsFunc(n.Items, func(item *document.Node) bool { return item.Kind == document.Mapping }) {
		return n
	}
	out := *n
	out.Items = nil
	for _, item := range n.Items {
		if item.Kind == document.Mapping {
			s, err := notation.NestPattern(item.PlainMap())
			if err != nil {
				r.rec.add(item.At, item.Path, badPattern, err)
				continue
			}
			as := *item
			as.Kind, as.Text, as.Items = document.Text, s, nil
			item = &as
		}
		out.Items = append(out.Items, item)
	}
	return &out
}

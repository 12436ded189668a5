package system

import "slices"

var serviceBusSchema = schema{what: "a service's bus", keys: []string{"group", "format", "inbox", "answers", "asks", "publishes", "subscribes"}}

func (r *reader) readServiceBus(service string, n *node) *ServiceBus {
	f := r.fields(n, serviceBusSchema)
	out := &ServiceBus{}
	if group := f["group"]; group != nil {
		if s, ok := r.text(group); ok && !wordOf(s, "._-") {
			r.rec.add(group.at, group.path, badName, quote(s), "a name of letters, digits and . _ -, at most 64", "")
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
func (r *reader) subjects(n *node, dollar bool) []string {
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
func (r *reader) patternsAsText(n *node) *node {
	if n == nil || n.kind != list || !slices.ContainsFunc(n.items, func(item *node) bool { return item.kind == mapping }) {
		return n
	}
	out := *n
	out.items = nil
	for _, item := range n.items {
		if item.kind == mapping {
			s, err := nestPattern(plainMap(item))
			if err != nil {
				r.rec.add(item.at, item.path, badPattern, err)
				continue
			}
			as := *item
			as.kind, as.text, as.items = text, s, nil
			item = &as
		}
		out.items = append(out.items, item)
	}
	return &out
}

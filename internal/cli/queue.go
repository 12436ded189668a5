package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"fairlead/internal/control"
	"fairlead/internal/system"
	"fairlead/internal/system/asyncapi"
	"fairlead/internal/system/notation"
)

func (a *app) queuesCommand() *cobra.Command {
	var document bool
	var environment string
	cmd := &cobra.Command{
		Use:   "queues",
		Short: "Show the queues, what they hold and who is behind",
		Long: `Shows each queue with its messages, its size on the disk, how many messages a second
were stored within the last minute, its durable consumers with how far behind they
are, and how many messages were refused since the node started. A queue that was
taken out of the file and still has messages is shown too.

With --asyncapi, writes the queues of the file, their types, and who publishes and
subscribes, as an AsyncAPI 3 document; the system need not run.`,
		Example: `  fairlead queues
  fairlead queues --json | jq '.queues[] | select(.refused > 0)'
  fairlead queues --asyncapi > asyncapi.json`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if document {
				return a.writeCatalogue(environment)
			}
			if environment != "" {
				return &usageError{problem: "--environment goes with --asyncapi: a system that runs has its environment"}
			}
			list, err := ask[control.Empty, []control.Queue](cmd.Context(), a, control.VerbQueues, "", control.Empty{})
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(map[string]any{"queues": control.List[control.Queue](list)})
			}
			return a.out.lines(renderQueues(a.out, list, a.now())...)
		},
	}
	cmd.Flags().BoolVar(&document, "asyncapi", false, "write the file's queues as an AsyncAPI document")
	cmd.Flags().StringVarP(&environment, "environment", "e", "", "environment to merge in, with --asyncapi")
	return cmd
}

// writeCatalogue writes the AsyncAPI document of the file.
func (a *app) writeCatalogue(environment string) error {
	t, err := a.findFile("")
	if err != nil {
		return err
	}
	sys, err := system.Load(t.File, system.Options{Environment: environment})
	if err != nil {
		return err
	}
	text, err := asyncapi.Write(sys)
	if err != nil {
		return err
	}
	return a.out.write(text)
}

func (a *app) queueCommand() *cobra.Command {
	var peek control.PeekRequest
	var purge control.PurgeRequest
	var older, from, consumer string
	var internal bool
	cmd := &cobra.Command{
		Use:   "queue NAME [show|peek|purge|replay [SEQUENCE]|dead|forget CONSUMER|move]",
		Short: "Show a queue, look at its messages, remove them, replay its dead letters",
		Long: `Shows a queue (show, also without a word). peek shows its newest messages, or those
from a sequence on; nothing is taken. dead shows its dead letters: full copies of the
messages that did not satisfy its type, or that no consumer could handle, with the
reason. replay publishes them again, one by its sequence or all; those that are
stored now are dead letters no more. With --consumer, replay gives the messages of the
queue to one durable subscription again, from a time or a sequence on, or from the
first. forget removes a durable subscription that no instance has any more. purge
removes messages, the oldest first. move publishes the messages of a queue that is not
in the file any more again, so that the queues keep them which have its subjects now.

With --json, a message's "data" is its JSON; "text" stands there for other text, and
"base64" for what is no text. Headers that the bus itself has added are shown with
--headers only. Sequences may have gaps: a message with a dedupe key takes two.`,
		Example: `  fairlead queue data.vhf
  fairlead queue data.vhf peek -n 20
  fairlead queue data.vhf peek --from 1200 --json
  fairlead queue data.vhf dead
  fairlead queue data.vhf replay 17
  fairlead queue data.vhf replay --consumer page_show --from 2026-01-31T12:00:00Z
  fairlead queue data.vhf forget page_show
  fairlead queue data.vhf purge --older-than 30d
  fairlead queue data.vhf purge --keep 1000
  fairlead queue orders.incoming move
  fairlead queue 'activity.*' purge --remove`,
		Args: argsBetween(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			word := "show"
			if len(args) > 1 {
				word = args[1]
			}
			if len(args) > 2 && word != "replay" && word != "forget" {
				return &usageError{problem: "only replay and forget take a word more", hint: "see: fairlead queue --help"}
			}
			ctx := cmd.Context()
			switch word {
			case "show":
				return a.showQueue(ctx, args[0])
			case "peek", "dead":
				peek.Queue, peek.Dead = args[0], word == "dead"
				var err error
				if from != "" {
					if peek.From, err = sequenceOf(from, args[0]); err != nil {
						return err
					}
				}
				return a.peekQueue(ctx, peek, internal)
			case "purge":
				purge.Queue = args[0]
				if cmd.Flags().Changed("older-than") {
					d, err := notation.ParseDuration(older)
					if err != nil || d <= 0 {
						return &usageError{problem: fmt.Sprintf("--older-than %q is no duration", older), hint: "write it as 12h or 30d"}
					}
					purge.Before = a.now().Add(-d)
				}
				return a.purgeQueue(ctx, purge)
			case "replay":
				if consumer == "" {
					return a.replayQueue(ctx, args)
				}
				return a.changeConsumer(ctx, control.ConsumerRequest{Queue: args[0], Consumer: consumer, From: from})
			case "forget":
				if len(args) < 3 {
					return &usageError{problem: "which consumer is to be forgotten?", hint: "fairlead queue " + args[0] + " shows them"}
				}
				return a.changeConsumer(ctx, control.ConsumerRequest{Queue: args[0], Consumer: args[2], Remove: true})
			case "move":
				return a.moveQueue(ctx, args[0])
			default:
				return &usageError{problem: fmt.Sprintf("%q is nothing that can be done with a queue", word), hint: "there are show, peek, purge, replay, dead, forget and move"}
			}
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&peek.Most, "lines", "n", 10, "peek, dead: how many messages")
	flags.StringVar(&from, "from", "", "peek, dead: from this sequence on; replay: first (default), new, a time or a sequence")
	flags.StringVar(&consumer, "consumer", "", "replay: the durable subscription that gets the messages again")
	flags.Uint64Var(&purge.Keep, "keep", 0, "purge: keep so many of the newest")
	flags.StringVar(&older, "older-than", "", "purge: only what is older, such as 12h or 30d")
	flags.BoolVar(&internal, "headers", false, "peek, dead: with the headers that the bus has added")
	flags.BoolVar(&purge.Dead, "dead", false, "purge: its dead letters instead")
	flags.BoolVar(&purge.Remove, "remove", false, "purge: the queue itself too, which is not in the file any more")
	cmd.MarkFlagsMutuallyExclusive("keep", "older-than", "remove")
	return cmd
}

func (a *app) showQueue(ctx context.Context, name string) error {
	q, err := ask[control.QueueRequest, control.Queue](ctx, a, control.VerbQueue, "", control.QueueRequest{Queue: name})
	if err != nil {
		return err
	}
	if a.json {
		return a.out.json(q)
	}
	return a.out.lines(renderQueue(a.out, q, a.now())...)
}

func (a *app) peekQueue(ctx context.Context, req control.PeekRequest, internal bool) error {
	list, err := ask[control.PeekRequest, []control.QueueMessage](ctx, a, control.VerbPeek, "", req)
	if err != nil {
		return err
	}
	if !internal {
		for i := range list {
			list[i].Headers = ownHeaders(list[i].Headers)
		}
	}
	if a.json {
		shown := make(control.List[message], len(list))
		for i := range list {
			shown[i] = shownMessage(list[i])
		}
		return a.out.json(map[string]any{"messages": shown})
	}
	if len(list) == 0 {
		if req.Dead {
			return a.out.lines(req.Queue + " has no dead letters")
		}
		return a.out.lines(req.Queue + " has no messages")
	}
	var lines []string
	for _, m := range list {
		lines = append(lines, renderMessage(a.out, m)...)
	}
	return a.out.lines(lines...)
}

func (a *app) purgeQueue(ctx context.Context, req control.PurgeRequest) error {
	r, err := ask[control.PurgeRequest, control.PurgeReply](ctx, a, control.VerbPurge, "purging "+req.Queue, req)
	if err != nil {
		return err
	}
	if a.json {
		return a.out.json(r)
	}
	what := plural(int(min(r.Removed, 1<<62)), "message")
	if req.Dead {
		what = plural(int(min(r.Removed, 1<<62)), "dead letter")
	}
	text := req.Queue + ": removed " + what
	if req.Remove && !req.Dead {
		text += ", and the queue"
	}
	return a.out.lines(text)
}

func (a *app) replayQueue(ctx context.Context, args []string) error {
	req := control.DeadReplayRequest{Queue: args[0]}
	if len(args) > 2 {
		n, err := sequenceOf(args[2], args[0])
		if err != nil {
			return err
		}
		req.Sequence = n
	}
	r, err := ask[control.DeadReplayRequest, control.DeadReplayReply](ctx, a, control.VerbDeadReplay, "replaying "+req.Queue, req)
	if err != nil {
		return err
	}
	if a.json {
		err = a.out.json(r)
	} else {
		lines := []string{req.Queue + ": " + plural(r.Replayed, "dead letter") + " replayed"}
		for _, refused := range r.Refused {
			lines = append(lines, fmt.Sprintf("  %d stays: %s", refused.Sequence, harmless(refused.Reason, false)))
		}
		err = a.out.lines(lines...)
	}
	if err == nil && len(r.Refused) > 0 {
		err = fmt.Errorf("%s could not be replayed", plural(len(r.Refused), "dead letter"))
	}
	return err
}

// moveQueue moves the messages of a queue that is not in the file any more.
func (a *app) moveQueue(ctx context.Context, name string) error {
	r, err := ask[control.QueueRequest, control.MoveReply](ctx, a, control.VerbMove, "moving "+name, control.QueueRequest{Queue: name})
	if err != nil {
		return err
	}
	if a.json {
		return a.out.json(r)
	}
	return a.out.lines(name + ": " + plural(r.Moved, "message") + " moved; remove the queue with: fairlead queue " + control.QuoteWord(name) + " purge --remove")
}

// sequenceOf reads the sequence of a message.
func sequenceOf(text, queue string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, &usageError{problem: fmt.Sprintf("a sequence is a number, not %q", text), hint: "see: fairlead queue " + queue + " dead"}
	}
	return n, nil
}

// changeConsumer makes a durable subscription begin anew, or removes it.
func (a *app) changeConsumer(ctx context.Context, req control.ConsumerRequest) error {
	c, err := ask[control.ConsumerRequest, control.Consumer](ctx, a, control.VerbConsumer, "", req)
	if err != nil {
		return err
	}
	if a.json {
		return a.out.json(c)
	}
	if req.Remove {
		return a.out.lines(req.Queue + ": " + req.Consumer + " is forgotten")
	}
	return a.out.lines(fmt.Sprintf("%s: %s gets %s again", req.Queue, req.Consumer, plural(int(min(c.Lag, 1<<62)), "message")))
}

func (a *app) publishCommand() *cobra.Command {
	req := control.PublishRequest{}
	var headers []string
	cmd := &cobra.Command{
		Use:   "publish SUBJECT [DATA|-]",
		Short: "Publish a message, as the operator",
		Long: `Publishes a message. Where a queue keeps the subject, it returns when the message is
stored and synced, and shows the stream and the sequence; a message that does not
satisfy the queue's type is refused with the place of the fault. Elsewhere the
message goes to whoever listens. DATA is sent as it is; "-" reads it from the
standard input.`,
		Example: `  fairlead publish data.vhf '{"level": 1}'
  fairlead publish data.vhf - < notification.json
  fairlead publish data.vhf '{"level": 1}' -H 'Nats-Msg-Id: sb18121300'`,
		Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Subject = args[0]
			var err error
			if req.Data, req.Headers, err = a.message(args[1:], headers); err != nil {
				return err
			}
			r, err := ask[control.PublishRequest, control.PublishReply](cmd.Context(), a, control.VerbPublish, "", req)
			if err != nil {
				return err
			}
			if a.json {
				return a.out.json(r)
			}
			switch {
			case r.Stream == "":
				return a.out.lines("published; no queue keeps " + req.Subject)
			case r.Quarantined:
				return a.out.lines(fmt.Sprintf("quarantined: it does not satisfy the type of its queue, and is dead letter %d", r.Sequence))
			case r.Duplicate:
				return a.out.lines(fmt.Sprintf("%s %d (a duplicate, stored before)", r.Stream, r.Sequence))
			default:
				return a.out.lines(fmt.Sprintf("%s %d", r.Stream, r.Sequence))
			}
		},
	}
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "header of the message, 'Name: value'; may be repeated")
	return cmd
}

func (a *app) subscribeCommand() *cobra.Command {
	var most int
	var internal bool
	cmd := &cobra.Command{
		Use:   "subscribe SUBJECT",
		Short: "Show what is published, as the operator",
		Long: `Shows each message that is published on a subject, or on those of a pattern, from now
on, until Ctrl-C. Of a queue it shows what was stored. Messages that come faster than
they can be shown are passed over.

With --json, each message is a line: its "data" is its JSON; "text" stands there for
other text, and "base64" for what is no text. Headers that the bus itself has added are
shown with --headers only.`,
		Example: `  fairlead subscribe data.vhf
  fairlead subscribe 'data.*' --json
  fairlead subscribe activity.vhf -n 1`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			shown, enough := 0, errors.New("that was enough")
			if err := a.errs.lines(a.errs.style(dim, "what is published on "+args[0]+" from now on; Ctrl-C ends it")); err != nil {
				return err
			}
			err = control.Stream(ctx, c, control.VerbSubscribe, control.SubscribeRequest{Subject: args[0]}, func(m control.QueueMessage) error {
				if !internal {
					m.Headers = ownHeaders(m.Headers)
				}
				if a.json {
					err = a.out.jsonLine(shownMessage(m))
				} else {
					err = a.out.lines(renderMessage(a.out, m)...)
				}
				if shown++; err == nil && shown == most {
					err = enough
				}
				return err
			})
			if errors.Is(err, context.Canceled) || errors.Is(err, enough) {
				return nil // Ctrl-C is how it ends
			}
			return err
		},
	}
	cmd.Flags().IntVarP(&most, "lines", "n", 0, "end after so many messages")
	cmd.Flags().BoolVar(&internal, "headers", false, "with the headers that the bus has added")
	return cmd
}

// unusedAfter is how long nobody takes from a consumer until that is worth a word.
const unusedAfter = time.Minute

func unused(c control.Consumer, now time.Time) bool {
	return !c.Unused.IsZero() && now.Sub(c.Unused) >= unusedAfter
}

func renderQueues(s *screen, list []control.Queue, now time.Time) []string {
	if len(list) == 0 {
		return []string{"there are no queues; add one to the file, under queues"}
	}
	rows := [][]string{{}}
	for _, h := range []string{"QUEUE", "MESSAGES", "SIZE", "RATE", "TYPE", "CONSUMERS", "BEHIND", "OLDEST UNACKED", "REFUSED", "DEAD"} {
		rows[0] = append(rows[0], s.style(dim, h))
	}
	for _, q := range list {
		var lag uint64
		var oldest time.Time
		idle := 0
		for _, c := range q.Consumers {
			if unused(c, now) { // it is not slow, nobody is there
				idle++
				continue
			}
			lag = max(lag, c.Lag+uint64(c.Unacked))
			if !c.Oldest.IsZero() && (oldest.IsZero() || c.Oldest.Before(oldest)) {
				oldest = c.Oldest
			}
		}
		behind, unacked := "-", "-"
		consumers := strconv.Itoa(len(q.Consumers))
		if idle > 0 {
			consumers += fmt.Sprintf(" (%d unused)", idle)
		}
		if len(q.Consumers) > idle {
			behind = strconv.FormatUint(lag, 10)
		}
		if !oldest.IsZero() {
			unacked = ago(now.Sub(oldest))
		}
		name := q.Name
		if q.Apart {
			name += " (not in the file)"
		}
		rows = append(rows, []string{
			name, strconv.FormatUint(q.Messages, 10), byteText(q.Bytes), rateText(q.Rate), cmp.Or(q.Type, "-"),
			consumers, behind, unacked, strconv.FormatUint(q.Refused, 10), strconv.FormatUint(q.Dead, 10),
		})
	}
	return table(rows)
}

func renderQueue(s *screen, q control.Queue, now time.Time) []string {
	fact := func(name, text string) []string { return []string{s.style(dim, name), text} }
	rows := [][]string{fact("queue", q.Name)}
	if q.Apart {
		rows = append(rows, fact("state", "not in the file any more: it takes no messages; remove it with: fairlead queue "+control.QuoteWord(q.Name)+" purge --remove"))
	}
	rows = append(rows, fact("stream", q.Stream))
	if q.Type != "" {
		rows = append(rows, fact("type", q.Type+", "+q.Enforce))
	}
	holds := plural(int(min(q.Messages, 1<<62)), "message") + ", " + byteText(q.Bytes)
	if q.Messages > 0 {
		holds += fmt.Sprintf(", sequences %d to %d, the oldest %s old, the newest %s", q.First, q.Last, ago(now.Sub(q.Oldest)), ago(now.Sub(q.Newest)))
	}
	rows = append(rows, fact("holds", holds), fact("rate", rateText(q.Rate)))
	if !q.Apart {
		rows = append(rows, fact("keeps", limits(q)))
	}
	if q.Refused+q.Quarantined+q.Observed > 0 {
		rows = append(rows, fact("of another type", fmt.Sprintf("%d refused, %d quarantined, %d stored, since the node started", q.Refused, q.Quarantined, q.Observed)))
	}
	rows = append(
		rows,
		fact("dead letters", strconv.FormatUint(q.Dead, 10)),
		fact("published by", cmp.Or(strings.Join(q.Publishes, ", "), "nobody")),
		fact("subscribed by", cmp.Or(strings.Join(q.Subscribes, ", "), "nobody")),
	)
	for _, c := range q.Consumers {
		text := fmt.Sprintf("%d behind, %d not acknowledged", c.Lag, c.Unacked)
		if c.Again > 0 {
			text += fmt.Sprintf(" (%d given again)", c.Again)
		}
		if !c.Oldest.IsZero() {
			text += ", the oldest of " + ago(now.Sub(c.Oldest)) + " ago"
		}
		if unused(c, now) {
			text += fmt.Sprintf("; nobody takes from it since %s; if that is meant: fairlead queue '%s' forget %s", ago(now.Sub(c.Unused)), q.Name, c.Name)
		}
		rows = append(rows, fact("consumer "+c.Name, text))
	}
	return table(rows)
}

func limits(q control.Queue) string {
	parts := []string{took(q.Keep)}
	if q.MaxBytes > 0 {
		parts = append(parts, byteText(uint64(q.MaxBytes)))
	}
	if q.MaxCount > 0 {
		parts = append(parts, plural(int(q.MaxCount), "message"))
	}
	return strings.Join(parts, ", ")
}

// rateText writes messages a second.
func rateText(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "-"
	case perSecond < 1:
		return strconv.FormatFloat(perSecond*60, 'f', 0, 64) + "/min"
	default:
		return strconv.FormatFloat(perSecond, 'f', 1, 64) + "/s"
	}
}

// byteText writes bytes in the unit that reads best.
func byteText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[i]
}

// renderMessage is a message: a line about it, its headers, its data.
func renderMessage(s *screen, m control.QueueMessage) []string {
	head := m.Time.Local().Format("2006-01-02 15:04:05.000") + " " + m.Subject
	if m.Sequence > 0 {
		head = strconv.FormatUint(m.Sequence, 10) + " " + head
	}
	lines := []string{s.style(dim, harmless(head, false))}
	if d := m.Dead; d != nil {
		lines = append(lines, "  "+s.style(red, harmless(d.Reason, false)))
		if d.Consumer != "" {
			lines = append(lines, "  consumer "+harmless(d.Consumer, false)+", message "+strconv.FormatUint(d.Sequence, 10))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		for _, v := range m.Headers[name] {
			lines = append(lines, s.style(dim, "  "+harmless(name+": "+v, false)))
		}
	}
	return append(lines, dataText(m.Data)...)
}

// message is a message in JSON, its data in one of three forms.
type message struct {
	Sequence uint64              `json:"sequence,omitempty"`
	Subject  string              `json:"subject"`
	Time     time.Time           `json:"time"`
	Headers  map[string][]string `json:"headers,omitempty"`
	Data     json.RawMessage     `json:"data,omitempty"`
	Text     *string             `json:"text,omitempty"`
	Base64   []byte              `json:"base64,omitempty"`
	Dead     *control.Death      `json:"dead,omitempty"`
}

// shownMessage is a message as subscribers of the door are told it: JSON as it is,
// other text as text, anything else in base64.
func shownMessage(m control.QueueMessage) message {
	out := message{Sequence: m.Sequence, Subject: m.Subject, Time: m.Time, Headers: m.Headers, Dead: m.Dead}
	switch {
	case !utf8.Valid(m.Data):
		out.Base64 = m.Data
	case json.Valid(m.Data):
		out.Data = m.Data
	default:
		text := string(m.Data)
		out.Text = &text
	}
	return out
}

// ownHeaders are a message's headers without those that the bus has added.
func ownHeaders(headers map[string][]string) map[string][]string {
	own := map[string][]string{}
	for name, values := range headers {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "nats-") && lower != "nats-msg-id" {
			continue
		}
		own[name] = values
	}
	return own
}

// dataText is a message's data, as it is.
func dataText(data []byte) []string {
	if len(data) == 0 {
		return []string{"  (empty)"}
	}
	if !utf8.Valid(data) {
		return []string{fmt.Sprintf("  (%s that are no text)", byteText(uint64(len(data))))}
	}
	var lines []string
	for l := range strings.SplitSeq(strings.TrimRight(string(data), "\n"), "\n") {
		lines = append(lines, "  "+harmless(l, false))
	}
	return lines
}

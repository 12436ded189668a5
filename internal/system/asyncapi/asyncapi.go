// Package asyncapi writes the queues of a system, their types, and who publishes and
// subscribes, as an AsyncAPI 3 document: for people, for generators of code and pages,
// and for the browser behind a route with monitor: catalogue.
//
// The document is a pure function of the model: the same file gives the same bytes, and
// its version, a hash of the content, changes with the content alone. It names no
// address and no secret. Subjects that are in no queue are not in it.
//
// See https://www.asyncapi.com/docs/reference/specification/v3.0.0.
package asyncapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/system"
	"fairlead/internal/system/notation"
)

// MediaType is the document's (AsyncAPI 3.0.0, "File structure").
const MediaType = "application/vnd.aai.asyncapi+json;version=3.0.0"

// schemaFormat is that of JSON Schema 2020-12 ("Multi Format Schema Object").
const schemaFormat = "application/schema+json;version=draft-2020-12"

type (
	document struct {
		AsyncAPI           string               `json:"asyncapi"`
		Info               info                 `json:"info"`
		DefaultContentType string               `json:"defaultContentType"`
		Channels           map[string]channel   `json:"channels"`
		Operations         map[string]operation `json:"operations"`
		Components         components           `json:"components"`
	}
	info struct {
		Title       string `json:"title"`
		Version     string `json:"version"`
		Description string `json:"description"`
	}
	channel struct {
		Address     string               `json:"address"`
		Title       string               `json:"title"`
		Description string               `json:"description"`
		Messages    map[string]reference `json:"messages"`
		Parameters  map[string]parameter `json:"parameters,omitempty"`
		Queue       queue                `json:"x-fairlead-queue"`
	}
	// queue is what AsyncAPI has no words for. Zero values are left out.
	queue struct {
		Enforce     string `json:"enforce,omitempty"`
		Keep        string `json:"keep"`
		MaxBytes    int64  `json:"max_bytes,omitempty"`
		MaxMessages int64  `json:"max_messages,omitempty"`
		Dedupe      string `json:"dedupe"`
		Replicas    int    `json:"replicas"`
	}
	parameter struct {
		Description string `json:"description"`
	}
	operation struct {
		Action      string    `json:"action"` // send or receive
		Channel     reference `json:"channel"`
		Title       string    `json:"title"`
		Description string    `json:"description"`
		Tags        []tag     `json:"tags"`
	}
	tag struct {
		Name string `json:"name"`
	}
	reference struct {
		Ref string `json:"$ref"`
	}
	components struct {
		Messages map[string]message `json:"messages"`
		Schemas  map[string]schema  `json:"schemas"`
	}
	message struct {
		Name        string     `json:"name"`
		Title       string     `json:"title"`
		ContentType string     `json:"contentType,omitempty"`
		Payload     *reference `json:"payload,omitempty"`
	}
	schema struct {
		Format string `json:"schemaFormat"`
		Schema any    `json:"schema"`
	}
)

// anyMessage is the name of the message of queues without a type; a type's begins with
// a letter.
const anyMessage = "_any"

// Write returns the document of a system, as JSON with an end of line. It returns an
// error if the schema of a type is no JSON, which [system.Load] lets none be.
func Write(sys *system.System) ([]byte, error) {
	doc := document{
		AsyncAPI: "3.0.0", DefaultContentType: "application/json",
		Info: info{
			Title:       sys.Name,
			Description: "The queues of " + sys.Name + ": subjects of its bus (NATS JetStream) whose messages are kept.",
		},
		Channels: map[string]channel{}, Operations: map[string]operation{},
		Components: components{Messages: map[string]message{}, Schemas: map[string]schema{}},
	}
	for i := range sys.Types {
		if err := doc.addType(&sys.Types[i]); err != nil {
			return nil, err
		}
	}
	for i := range sys.Queues {
		doc.addQueue(&sys.Queues[i])
	}
	doc.addParties(sys)
	content, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write catalogue: %w", err)
	}
	sum := sha256.Sum256(content)
	doc.Info.Version = hex.EncodeToString(sum[:6])
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("write catalogue: %w", err)
	}
	return out.Bytes(), nil
}

func (d *document) addType(t *system.Type) error {
	dec := json.NewDecoder(bytes.NewReader(t.Schema))
	dec.UseNumber()
	var s any
	if err := dec.Decode(&s); err != nil {
		return fmt.Errorf("write type %s: %w", t.Name, err)
	}
	d.Components.Schemas[t.Name] = schema{schemaFormat, embed(s, "#/components/schemas/"+t.Name+"/schema")}
	d.Components.Messages[t.Name] = message{
		Name: t.Name, Title: t.Name, ContentType: "application/json", Payload: &reference{"#/components/schemas/" + t.Name},
	}
	return nil
}

func (d *document) addQueue(q *system.Queue) {
	address, parameters := addressOf(q.Name)
	c := channel{
		Address: address, Title: q.Name, Description: describe(q), Parameters: parameters,
		Queue: queue{
			Keep: written(q.Keep), MaxBytes: q.MaxBytes, MaxMessages: q.MaxCount, Dedupe: written(q.Dedupe), Replicas: q.Replicas,
		},
	}
	name := q.Type
	if name == "" {
		name = anyMessage
		d.Components.Messages[name] = message{Name: "any", Title: "Any message"}
	} else {
		c.Queue.Enforce = string(q.Enforce)
	}
	c.Messages = map[string]reference{name: {"#/components/messages/" + name}}
	d.Channels[channelID(q.Name)] = c
}

// describe tells in words what a queue does with a message.
func describe(q *system.Queue) string {
	var b strings.Builder
	b.WriteString("Messages are kept for " + inWords(q.Keep))
	if q.MaxBytes > 0 || q.MaxCount > 0 {
		b.WriteString(" at most, fewer where there is no room")
	}
	b.WriteString(".")
	if q.Type == "" {
		return b.String()
	}
	switch q.Enforce {
	case system.EnforceQuarantine:
		b.WriteString(" One that does not satisfy " + q.Type + " is put among the dead letters.")
	case system.EnforceObserve:
		b.WriteString(" One that does not satisfy " + q.Type + " is counted.")
	case system.EnforceReject:
		b.WriteString(" One that does not satisfy " + q.Type + " is refused.")
	}
	return b.String()
}

// inWords writes a duration for a person.
func inWords(d time.Duration) string {
	s := written(d)
	if s == "1d" {
		return "1 day"
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		return days + " days"
	}
	return s
}

// written writes a duration as the file does, whole days as such.
func written(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return d.String()
}

// channelID names a queue in references, where a wildcard would be read as something
// else: data.ANY, orders.ALL. No queue has these words.
func channelID(queue string) string {
	return strings.NewReplacer("*", "ANY", ">", "ALL").Replace(queue)
}

// addressOf writes the subjects of a queue with parameters for its wildcards.
func addressOf(queue string) (address string, parameters map[string]parameter) {
	tokens := strings.Split(queue, ".")
	for i, t := range tokens {
		name, p := "token"+strconv.Itoa(i+1), parameter{"One token: letters, digits, _ and -, and no dot."}
		switch t {
		case ">":
			name, p = "rest", parameter{"One token or more, with dots between."}
		case "*":
		default:
			continue
		}
		if parameters == nil {
			parameters = map[string]parameter{}
		}
		tokens[i], parameters[name] = "{"+name+"}", p
	}
	return strings.Join(tokens, "."), parameters
}

// addParties adds who publishes to the queues, and who subscribes: services, users of
// the bus and routes of the door.
func (d *document) addParties(sys *system.System) {
	for i := range sys.Services {
		if s := &sys.Services[i]; s.Bus != nil {
			d.addSubjects(sys, "service", s.Name, s.Bus.Publishes, s.Bus.Subscribes)
		}
	}
	for i := range sys.Bus.Users {
		u := &sys.Bus.Users[i]
		d.addSubjects(sys, "user", u.Name, u.Publishes, u.Subscribes)
	}
	for i := range sys.Routes {
		switch r := sys.Routes[i]; {
		case r.Publish != nil:
			d.addSubjects(sys, "route", r.Key, []string{wildcards(r.Publish.Subject)}, nil)
		case r.Subscribe != nil:
			d.addSubjects(sys, "route", r.Key, nil, []string{wildcards(r.Subscribe.Subject)})
		}
	}
}

// wildcards is the subject of a route with * for each of its values.
func wildcards(subject string) string {
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if strings.HasPrefix(t, "{") {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

func (d *document) addSubjects(sys *system.System, kind, name string, publishes, subscribes []string) {
	for i := range sys.Queues {
		q := &sys.Queues[i]
		for _, does := range []struct {
			action, verb string
			subjects     []string
		}{{"send", "publishes to", publishes}, {"receive", "subscribes to", subscribes}} {
			in := slices.DeleteFunc(slices.Clone(does.subjects), func(s string) bool { return !notation.SubjectsMeet(s, q.Name) })
			if len(in) == 0 {
				continue
			}
			slices.Sort(in)
			title := fmt.Sprintf("%s %s %s %s", kind, name, does.verb, q.Name)
			d.Operations[operationID(kind, name, does.action, q.Name)] = operation{
				Action: does.action, Channel: reference{"#/channels/" + channelID(q.Name)}, Title: title,
				Description: "The subjects are " + strings.Join(in, ", ") + ".", Tags: []tag{{kind}, {name}},
			}
		}
	}
}

// operationID names an operation in letters, digits and dots. Two parties never share
// one: what is left of a route's key is followed by a hash of it.
func operationID(kind, name, action, queue string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-':
			return r
		default:
			return '_'
		}
	}, name)
	if plain != name {
		sum := sha256.Sum256([]byte(name))
		plain = strings.Trim(plain, "_") + "." + hex.EncodeToString(sum[:4])
	}
	return strings.Join([]string{kind, plain, action, channelID(queue)}, ".")
}

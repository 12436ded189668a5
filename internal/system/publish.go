package system

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var signatureSchema = schema{what: "a signature", keys: []string{"kind", "secret", "header"}}

// The kinds of signatures.
const (
	SignatureGitHub   = "github"
	SignatureStripe   = "stripe"
	SignatureStandard = "standard"
	SignatureToken    = "token"
)

const (
	mostFields      = 16 // of a key that tells duplicates
	mostCarried     = 32
	defaultBuffer   = 256
	mostBuffer      = 2048 // half of what the door remembers
	defaultBeat     = 15 * time.Second
	shortestBeat    = time.Second
	longestBeat     = 10 * time.Minute
	claimOfTemplate = "claim:"
)

// login are the headers with which clients say who they are, in their canonical form.
var login = []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Hub-Signature", "X-Hub-Signature-256", "Stripe-Signature", "Webhook-Signature"}

// readPublish reads what a route stores in a queue.
func (r *reader) readPublish(f map[string]*document.Node, t *routed) *Publish {
	out := &Publish{}
	out.Subject, _ = r.subjectTemplate(f["publish"], t.pattern, false, "name a subject of a queue")
	out.Dedupe = r.dedupe(f["dedupe"])
	if n := f["signature"]; n != nil {
		out.Signature = r.readSignature(n)
	}
	out.Headers = r.carried(f["carry"], out.Signature)
	return out
}

// dedupe reads the fields that tell whether a message was there before.
func (r *reader) dedupe(n *document.Node) []string {
	items := r.texts(n, true)
	if len(items) > mostFields {
		r.rec.add(n.At, n.Path, tooMany, fmt.Sprint(mostFields), len(items), "")
		return nil
	}
	if n != nil && n.Kind == document.List && len(n.Items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, "name the fields that make two messages the same, or remove the key")
	}
	const longest = 256 // bytes of a name
	var out []string
	for _, item := range items {
		of, name, _ := strings.Cut(item.Text, ".")
		switch {
		case of == "body" && name != "" && len(name) <= longest && !slices.Contains(strings.Split(name, "."), ""):
			out = append(out, item.Text)
		case of == "header" && notation.IsToken(name):
			out = append(out, "header."+textproto.CanonicalMIMEHeaderKey(name))
		default:
			r.rec.add(item.At, item.Path, badField, wording.Quote(item.Text))
		}
	}
	return out
}

func (r *reader) readSignature(n *document.Node) *Signature {
	f := r.fields(n, signatureSchema)
	out := &Signature{}
	if n.Kind != document.Mapping {
		return out
	}
	if kind := f["kind"]; kind == nil {
		r.missing(n, signatureSchema, "kind", "write one of github, stripe, standard and token")
	} else {
		out.Kind = r.oneOf(kind, "", SignatureGitHub, SignatureStripe, SignatureStandard, SignatureToken)
	}
	if secret := f["secret"]; secret == nil {
		r.missing(n, signatureSchema, "secret", "name the secret that the sender has too")
	} else {
		out.Secret = r.secret(secret)
	}
	header := f["header"]
	switch {
	case out.Kind == SignatureToken && header == nil:
		r.missing(n, signatureSchema, "header", "name the header that holds the secret, as in X-Gitlab-Token")
	case header != nil && out.Kind != SignatureToken && out.Kind != "":
		r.rec.add(header.KeyAt, header.Path, misplaced, "in a signature of "+out.Kind, "its header is known: remove it")
	case header != nil:
		out.Header = textproto.CanonicalMIMEHeaderKey(r.headerName(header, ""))
	}
	return out
}

// carried reads the headers of a request that its message carries.
func (r *reader) carried(n *document.Node, signature *Signature) []string {
	items := r.texts(n, true)
	if len(items) > mostCarried {
		r.rec.add(n.At, n.Path, tooMany, fmt.Sprint(mostCarried), len(items), "")
		return nil
	}
	var out []string
	for _, item := range items {
		if !r.header(item.At, item.Path, item.Text, nil) {
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(item.Text)
		keys := r.sys.Gateway.Auth.Keys
		switch {
		case slices.Contains(login, name), keys != nil && name == textproto.CanonicalMIMEHeaderKey(keys.Header),
			signature != nil && name == signature.Header:
			r.rec.add(item.At, item.Path, loginHeader, name)
		case !slices.Contains(out, name):
			out = append(out, name)
		}
	}
	return out
}

// readSubscribe reads what a route streams.
func (r *reader) readSubscribe(f map[string]*document.Node, t *routed) *Subscribe {
	out := &Subscribe{
		Buffer:    r.int(f["buffer"], defaultBuffer, 1, mostBuffer, ""),
		Heartbeat: r.duration(f["heartbeat"], defaultBeat, shortestBeat, longestBeat),
		Origins:   r.socketOrigins(f["origins"], t),
	}
	n := f["subscribe"]
	var claims []string
	out.Subject, claims = r.subjectTemplate(n, t.pattern, true, "name a subject that services publish")
	for _, claim := range claims {
		auth := r.sys.Gateway.Auth
		switch methods := t.route.Auth; {
		case len(t.route.Roles)+len(methods) == 0:
			r.rec.add(n.At, n.Path, claimless, claim, "but the route lets in clients that nobody knows", "add role or auth")
		case claim == "sub":
		case auth.JWT == nil || len(methods) > 0 && !slices.Contains(methods, AuthJWT):
			r.rec.add(n.At, n.Path, claimless, claim, "which only a token has", "let users come with jwt, or use {claim:sub}, which each has")
		}
	}
	return out
}

// readNATS reads a route over which clients speak NATS itself.
func (r *reader) readNATS(f map[string]*document.Node, t *routed) *NATS {
	n := f["nats"]
	if on := r.bool(n); n.Kind == document.Boolean && !on {
		r.rec.add(n.At, n.Path, notOneOf, "true", "false", "remove the route if nobody may come so")
	}
	return &NATS{Origins: r.socketOrigins(f["origins"], t)}
}

// socketOrigins reads whose pages may open a WebSocket. A browser sends by itself what
// basic and forward look at.
func (r *reader) socketOrigins(n *document.Node, t *routed) []string {
	auth, methods, by := r.sys.Gateway.Auth, t.route.Auth, ""
	switch {
	case slices.Contains(methods, AuthForward):
		by = string(AuthForward)
	case slices.Contains(methods, AuthBasic), len(methods) == 0 && len(t.route.Roles) > 0 && auth.Basic != nil:
		by = string(AuthBasic)
	}
	if n != nil && n.Kind == document.List && len(n.Items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, "name the origins, or remove the key for the door's own")
	}
	return r.origins(n, by != "", by+" from auth")
}

// subjectTemplate reads a subject in which {name} stands for a value of the path, and
// {claim:name}, where wildcards are allowed too, for one of the user. Both are whole
// tokens, and not the first. own is the advice for a subject that is fairlead's own.
// claims are those that it uses.
func (r *reader) subjectTemplate(n *document.Node, p notation.Pattern, streams bool, own string) (subject string, claims []string) {
	s, ok := r.text(n)
	if !ok {
		return "", nil
	}
	if err := notation.CheckSubject(s, streams); err != nil {
		r.rec.add(n.At, n.Path, badSubject, err)
		return "", nil
	}
	for token := range strings.SplitSeq(s, ".") {
		if strings.ContainsAny(strings.TrimSuffix(strings.TrimPrefix(token, "{"), "}"), "{}") ||
			strings.HasPrefix(token, "{") != strings.HasSuffix(token, "}") {
			r.rec.add(n.At, n.Path, badSubject, "a value in braces must be a whole token")
			return "", nil
		}
	}
	pattern, used := notation.SubjectTemplate(s)
	switch pattern[0] {
	case '*', '>':
		r.rec.add(n.At, n.Path, badSubject, "the first token must be written out")
		return "", nil
	case '$', '_':
		r.rec.add(n.At, n.Path, closedSubject, pattern[:1], own)
		return "", nil
	}
	known := p.Values()
	for _, name := range used {
		claim, ok := strings.CutPrefix(name, claimOfTemplate)
		switch {
		case ok && streams && notation.IsWord(claim, "_-"):
			claims = append(claims, claim)
		case ok && streams:
			r.rec.add(n.At, n.Path, badSubject, "the name of a claim must be letters, digits, _ and -")
			return "", nil
		case !slices.Contains(known, name):
			r.rec.add(n.At, n.Path, unknownValue, name, wording.Suggest(name, known, "add {"+name+"} to the path"))
			return "", nil
		}
	}
	return s, claims
}

// checkPublish tells that what is published may be kept nowhere.
func (r *reader) checkPublish(t *routed) {
	r.checkBodyOverBus(t)
	n := t.fields["publish"]
	if t.route.Publish.Subject == "" {
		return
	}
	pattern, _ := notation.SubjectTemplate(t.route.Publish.Subject)
	var queues []string
	for _, q := range r.queues {
		if notation.SubjectCovers(q.Key, pattern) {
			if dedupe := t.fields["dedupe"]; dedupe != nil && q.Member("max_messages") != nil {
				r.rec.add(dedupe.KeyAt, dedupe.Path, countedMarkers, wording.Quote(q.Key))
			}
			return
		}
		if notation.SubjectsMeet(q.Key, pattern) {
			r.rec.add(n.At, n.Path, outsideQueue, wording.Quote(q.Key))
			return
		}
		queues = append(queues, q.Key)
	}
	slices.Sort(queues)
	r.refer("queues", n.At, n.Path, noQueue, wording.Quote(n.Text), wording.Suggest(n.Text, queues, "declare one under queues"))
}

// checkSubscribe tells that a stream would show requests and their bodies, which are
// between those who ask and those who answer.
func (r *reader) checkSubscribe(t *routed) {
	if t.route.Subscribe.Subject == "" {
		return
	}
	n := t.fields["subscribe"]
	pattern, _ := notation.SubjectTemplate(t.route.Subscribe.Subject)
	if services := r.whoAnswers(pattern); len(services) > 0 {
		r.rec.add(n.At, n.Path, answeredHeard, wording.Enumerate(services, "and"))
	}
}

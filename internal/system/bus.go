package system

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	busSchema = schema{
		what: "bus", keys: []string{"listen", "users", "outside", "url", "credentials", "signing_key", "account"},
		unbuilt: map[string]string{
			"tls":     "connections from other machines are encrypted under outside",
			"cluster": "the bus runs on one node for now; url leads to a cluster of your own",
		},
	}
	busUserSchema = schema{what: "a user of the bus", keys: []string{"secret", "publishes", "subscribes", "asks", "expires"}}
	outsideSchema = schema{what: "bus.outside", keys: []string{"listen", "certificate", "key"}}
	urlSchema     = schema{what: "bus.url", keys: []string{"secret"}}
)

// accountKey is the public key of an account of NATS.
var accountKey = regexp.MustCompile(`^A[A-Z2-7]{55}$`)

// mostBusUsers bounds the users of the bus in the file.
const mostBusUsers = 1000

func (r *reader) readBus(n *document.Node) {
	f := r.fields(n, busSchema)
	r.sys.Bus = Bus{Listen: "127.0.0.1:0"}
	if f["url"] != nil {
		r.readBusServer(f)
	} else {
		for _, key := range []string{"credentials", "signing_key", "account"} {
			if f[key] != nil {
				r.missing(n, busSchema, "url", "name the server that "+key+" is for, as in nats://10.0.3.4:7422, or remove "+key)
				break
			}
		}
	}
	if n := f["listen"]; n != nil {
		if host, ok := r.address(n, &r.sys.Bus.Listen); ok && !notation.IsLoopback(host) {
			r.rec.add(n.At, n.Path, notLoopback, wording.Quote(n.Text))
		}
	}
	if n := f["outside"]; n != nil {
		r.sys.Bus.Outside = r.readOutside(n, f["listen"])
	}
	r.readBusUsers(f["users"])
}

// readBusServer reads where the server is that keeps what the bus keeps.
func (r *reader) readBusServer(f map[string]*document.Node) {
	out := &BusServer{}
	r.sys.Bus.Server = out
	if n := f["url"]; n.Kind == document.Mapping {
		if name := r.fields(n, urlSchema)["secret"]; name != nil {
			out.URLSecret = r.issued(name)
		} else {
			r.missing(n, urlSchema, "secret", "name the secret that holds the URL with user and password")
		}
	} else if s, ok := r.text(n); ok {
		out.URL = r.busURL(n, s)
	}
	if n := f["credentials"]; n != nil {
		out.Credentials = r.issued(n)
	}
	if n := f["signing_key"]; n != nil {
		out.SigningKey = r.issued(n)
		if f["credentials"] != nil {
			r.rec.add(n.KeyAt, n.Path, misplaced, "beside credentials", "a user that is there needs no key that signs another: remove one of the two")
		}
	}
	if n := f["account"]; n != nil {
		out.Account = r.account(n, f["signing_key"] != nil)
	}
	if f["credentials"] == nil && f["signing_key"] == nil && f["url"].Kind != document.Mapping {
		r.warn(f["url"].KeyAt, f["url"].Path, notEnforced)
	}
}

// account reads whose users the signing key signs.
func (r *reader) account(n *document.Node, signing bool) string {
	s, ok := r.text(n)
	switch {
	case !ok:
		return ""
	case !signing:
		r.rec.add(n.KeyAt, n.Path, misplaced, "without signing_key", "remove it: a user says itself which account it is of")
		return ""
	case !accountKey.MatchString(s):
		r.rec.add(n.At, n.Path, badAccount, wording.Quote(s))
		return ""
	}
	return s
}

// busURL tells whether s can be the URL of a bus. One with a password is not repeated.
func (r *reader) busURL(n *document.Node, s string) string {
	u, err := url.Parse(s)
	switch {
	case strings.Contains(s, "@"):
		r.rec.add(n.At, n.Path, secretInFile)
	case err != nil, u.Scheme != "nats" && u.Scheme != "tls", u.Hostname() == "", u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		r.rec.add(n.At, n.Path, badURL, wording.Quote(s), "write it as in nats://10.0.3.4:7422 or tls://nats.example.com:7422, the port of leaf nodes")
	default:
		return s
	}
	return ""
}

// readOutside reads the listener for clients on other machines. listen is the bus's
// own, nil if the file does not say.
func (r *reader) readOutside(n, listen *document.Node) *Outside {
	f := r.fields(n, outsideSchema)
	out := &Outside{}
	if n.Kind != document.Mapping {
		return out
	}
	if at := f["listen"]; at == nil {
		r.missing(n, outsideSchema, "listen", `write it as in listen: ":4223"`)
	} else if _, ok := r.address(at, &out.Listen); ok {
		if listen != nil && notation.SameAddress(out.Listen, r.sys.Bus.Listen) {
			r.rec.add(at.At, at.Path, sameListener, out.Listen, listen.At)
		}
		for _, l := range r.sys.Gateway.Listeners {
			if notation.SameAddress(out.Listen, l.Address) {
				r.rec.add(at.At, at.Path, doorListener, l.Address)
				break
			}
		}
	}
	for _, c := range r.readCertificate(n, outsideSchema, f, nil) {
		out.Certificate, out.Key = c.Certificate, c.Key
	}
	return out
}

// readBusUsers reads the clients of the bus that are no services. Whether their names
// are free and what they ask is answered is known later: checkBusUsers.
func (r *reader) readBusUsers(n *document.Node) {
	entries := r.entries(n, "users by name")
	if len(entries) > mostBusUsers {
		r.rec.add(n.KeyAt, n.Path, tooMany, "1000", len(entries), "add them at run time: fairlead bus user add")
		return
	}
	for _, m := range entries {
		r.name(m.KeyAt, m.Path, m.Key)
		f := r.fields(m, busUserSchema)
		if m.Kind != document.Mapping {
			continue
		}
		u := BusUser{Name: m.Key, Expires: r.date(f["expires"])}
		if f["secret"] == nil {
			r.missing(m, busUserSchema, "secret", "name the secret that holds the password")
		} else {
			u.Secret = r.secret(f["secret"])
		}
		if len(f) == len(m.Items) && f["publishes"] == nil && f["subscribes"] == nil && f["asks"] == nil {
			r.rec.add(m.KeyAt, m.Path, grantsNothing)
		}
		u.Publishes = r.subjects(f["publishes"], false)
		u.Subscribes = r.subjects(f["subscribes"], false)
		u.Asks = r.subjects(f["asks"], true)
		r.sys.Bus.Users = append(r.sys.Bus.Users, u)
	}
	slices.SortFunc(r.sys.Bus.Users, func(a, b BusUser) int { return cmp.Compare(a.Name, b.Name) })
}

// checkBusUsers tells which users of the bus have a name that is taken.
func (r *reader) checkBusUsers(n *document.Node) {
	for _, u := range r.sys.Bus.Users {
		if by, taken := r.sys.TakenOnBus(u.Name); taken {
			m := n.Member(u.Name)
			r.rec.add(m.KeyAt, m.Path, takenUser, by)
		}
	}
}

// TakenOnBus says who has a name on the bus already, or may have it, so that no user of
// it can: fairlead itself, a service, or an instance, whose id ends in a number. Other
// users of the file do not count.
func (s *System) TakenOnBus(name string) (by string, taken bool) {
	if slices.Contains(ownNames, name) {
		return "fairlead", true
	}
	if _, ok := s.Service(name); ok {
		return "the service " + name, true
	}
	if i := strings.LastIndexByte(name, '-'); i > 0 && i < len(name)-1 && strings.Trim(name[i:], "-0123456789") == "" {
		return "an instance", true
	}
	return "", false
}

// BusUser finds a user of the bus by its name.
func (s *System) BusUser(name string) (*BusUser, bool) {
	for i := range s.Bus.Users {
		if s.Bus.Users[i].Name == name {
			return &s.Bus.Users[i], true
		}
	}
	return nil, false
}

// BusSecrets are the names of the secrets that the bus itself is given, sorted: the
// passwords of its users, and who it is on a server elsewhere.
func (s *System) BusSecrets() []string {
	var out []string
	for _, u := range s.Bus.Users {
		out = append(out, u.Secret)
	}
	if b := s.Bus.Server; b != nil {
		out = append(out, b.URLSecret, b.Credentials, b.SigningKey)
	}
	return sortedNames(out)
}

// DoorSecrets are the names of the secrets that the gateway itself is given, sorted:
// passwords and keys of its users, and those that webhooks are signed with.
func (s *System) DoorSecrets() []string {
	var out []string
	if basic := s.Gateway.Auth.Basic; basic != nil {
		for _, c := range basic.Users {
			out = append(out, c.Secret)
		}
	}
	if keys := s.Gateway.Auth.Keys; keys != nil {
		for _, c := range keys.Keys {
			out = append(out, c.Secret)
		}
	}
	for i := range s.Routes {
		if p := s.Routes[i].Publish; p != nil && p.Signature != nil {
			out = append(out, p.Signature.Secret)
		}
	}
	return sortedNames(out)
}

// sortedNames sorts names and leaves out what is empty or there twice.
func sortedNames(names []string) []string {
	names = slices.DeleteFunc(names, func(s string) bool { return s == "" })
	slices.Sort(names)
	return slices.Compact(names)
}

// date reads a day, which begins at midnight UTC, or a time of RFC 3339.
func (r *reader) date(n *document.Node) time.Time {
	s, ok := r.text(n)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	if err != nil {
		r.rec.add(n.At, n.Path, badDate, wording.Quote(s))
		return time.Time{}
	}
	return t.UTC()
}

// secret reads the name of a secret, "" if there is none. What stands there may be the
// secret itself, and is not repeated.
func (r *reader) secret(n *document.Node) string {
	s, ok := r.text(n)
	if !ok {
		return ""
	}
	if r.secrets[s] == nil {
		advice := "declare it under secrets and name it here: the file never holds a password"
		if best, ok := wording.Nearest(s, names(r.secrets)); ok {
			advice = "did you mean " + wording.Quote(best) + "?"
		}
		r.refer("secrets", n.At, n.Path, unknownSecret, "of this name", advice)
		return ""
	}
	return s
}

// issued reads the name of a secret that only somebody else can make.
func (r *reader) issued(n *document.Node) string {
	name := r.secret(n)
	if name == "" {
		return ""
	}
	if r.secrets[name].Member("generate") != nil {
		r.rec.add(n.At, n.Path, generated, wording.Quote(name))
	}
	return name
}

package node

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"fairlead/internal/bus"
	"fairlead/internal/control"
	"fairlead/internal/system"
)

const (
	mostUsers    = 1000
	mostSubjects = 64 // of one kind, of one user
	userPrefix   = "user."
)

// userName is what the file takes for the name of a user, too.
var userName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// addedUser is a user of the bus that was added by hand, as the state keeps it. Of its
// password there is only the hash.
type addedUser struct {
	Name       string    `json:"name"`
	Hash       string    `json:"hash"` // bcrypt
	Publishes  []string  `json:"publishes,omitempty"`
	Subscribes []string  `json:"subscribes,omitempty"`
	Asks       []string  `json:"asks,omitempty"`
	Expires    time.Time `json:"expires,omitzero"`
	Since      time.Time `json:"since"`
}

func (u *addedUser) model() system.BusUser {
	return system.BusUser{Name: u.Name, Publishes: u.Publishes, Subscribes: u.Subscribes, Asks: u.Asks, Expires: u.Expires}
}

// users are those of the bus that are no services: the file's, and those that were
// added by hand, which are in the state. A change is stored before it holds.
type users struct {
	state *state
	bus   *bus.Bus

	mu     sync.Mutex           // guards all below; held while a change is stored
	sys    *system.System       // in force; nil until the first follow
	ofFile map[string]bus.User  // with their passwords
	added  map[string]addedUser // by name
}

// openUsers reads who was added by hand. The bus knows them after the first follow.
func openUsers(ctx context.Context, s *state, b *bus.Bus) (*users, error) {
	keys, err := s.kv.ListKeysFiltered(ctx, userPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("list users of the bus: %w", err)
	}
	u := &users{state: s, bus: b, added: map[string]addedUser{}}
	for key := range keys.Keys() {
		var one addedUser
		if ok, err := s.get(ctx, key, &one); err != nil {
			return nil, err
		} else if ok {
			u.added[one.Name] = one
		}
	}
	return u, nil
}

// follow takes up the users of a revision, with the values of its secrets.
func (u *users) follow(ctx context.Context, sys *system.System, secrets map[string]string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, before := u.sys, u.ofFile
	u.sys, u.ofFile = sys, make(map[string]bus.User, len(sys.Bus.Users))
	for _, one := range sys.Bus.Users {
		u.ofFile[one.Name] = bus.User{BusUser: one, Password: secrets[one.Secret]}
	}
	if err := u.announce(ctx, u.added); err != nil {
		u.sys, u.ofFile = was, before
		return err
	}
	return nil
}

// announce tells the bus. A user of the file goes before one of its name that was
// added by hand. The mutex is held.
func (u *users) announce(ctx context.Context, added map[string]addedUser) error {
	all := slices.Collect(maps.Values(u.ofFile))
	for name, one := range added {
		if _, twice := u.ofFile[name]; !twice {
			all = append(all, bus.User{BusUser: one.model(), Password: one.Hash})
		}
	}
	return u.bus.SetUsers(ctx, all)
}

func (u *users) add(ctx context.Context, req control.BusUserAddRequest, _ func(control.Event)) (control.BusCredentials, error) {
	one := addedUser{
		Name: req.Name, Publishes: req.Publishes, Subscribes: req.Subscribes, Asks: req.Asks,
		Expires: req.Expires, Since: time.Now(),
	}
	if err := one.readSubjects(); err != nil {
		return control.BusCredentials{}, &control.Error{Code: control.CodeBadRequest, Message: err.Error()}
	}
	password, err := one.newPassword()
	if err != nil {
		return control.BusCredentials{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.fits(&one); err != nil {
		return control.BusCredentials{}, err
	}
	next := maps.Clone(u.added)
	next[one.Name] = one
	if err := u.announce(ctx, next); err != nil {
		return control.BusCredentials{}, &control.Error{Code: control.CodeBadRequest, Message: err.Error()}
	}
	if err := u.state.put(ctx, userPrefix+one.Name, one); err != nil {
		_ = u.announce(ctx, u.added) // whose password nobody was told
		return control.BusCredentials{}, err
	}
	u.added = next
	c := control.BusCredentials{
		BusUser: userOf(one.model(), one.Since), Password: password, InboxPrefix: bus.UserInbox(one.Name), URL: u.bus.URL(),
	}
	if u.sys != nil && u.sys.Bus.Outside != nil {
		c.Outside = u.sys.Bus.Outside.Listen
	}
	if u.sys != nil {
		c.Warnings = lonely(u.sys, &one)
	}
	return c, nil
}

// lonely says which subjects of a user nobody of the file listens to, publishes on or
// answers.
func lonely(sys *system.System, u *addedUser) []string {
	var heard, said, answered []string
	for i := range sys.Queues {
		heard, said = append(heard, sys.Queues[i].Name), append(said, sys.Queues[i].Name)
	}
	for i := range sys.Services {
		if b := sys.Services[i].Bus; b != nil {
			heard, said, answered = append(heard, b.Subscribes...), append(said, b.Publishes...), append(answered, b.Answers...)
		}
	}
	for _, other := range sys.Bus.Users {
		heard, said = append(heard, other.Subscribes...), append(said, other.Publishes...)
	}
	for i := range sys.Routes {
		if s := sys.Routes[i].Subscribe; s != nil {
			heard = append(heard, s.Subject)
		}
	}
	var out []string
	tell := func(subjects, others []string, format string) {
		for _, subject := range subjects {
			if !slices.ContainsFunc(others, func(o string) bool { return bus.Overlap(o, subject) }) {
				out = append(out, fmt.Sprintf(format, subject))
			}
		}
	}
	tell(u.Publishes, heard, "it may publish %s, which no queue keeps and nobody of the file subscribes to")
	tell(u.Subscribes, said, "it may subscribe to %s, which no queue keeps and nobody of the file publishes")
	tell(u.Asks, answered, "it may ask %s, which nobody of the file answers")
	return out
}

// readSubjects checks the subjects as those of the file are.
func (u *addedUser) readSubjects() error {
	for _, kind := range []struct {
		what string
		list []string
		asks bool
	}{{"publish", u.Publishes, false}, {"subscribe", u.Subscribes, false}, {"ask", u.Asks, true}} {
		for i, s := range kind.list {
			subject, err := system.ParseGrant(s, kind.asks)
			if err != nil {
				return fmt.Errorf("%s %q: %w", kind.what, s, err)
			}
			kind.list[i] = subject
		}
	}
	return nil
}

// newPassword makes a password and keeps its hash. The password is 256 random bits,
// which nobody guesses: a costly hash would only slow down each reload of the server,
// which compares them for every connection.
func (u *addedUser) newPassword() (password string, err error) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	password = base64.RawURLEncoding.EncodeToString(b[:])
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	u.Hash = string(hash)
	return password, nil
}

// fits says why a user cannot be added. The mutex is held.
func (u *users) fits(one *addedUser) error {
	refuse := func(code, message, hint string) error {
		return &control.Error{Code: code, Message: message, Hint: hint}
	}
	_, ofFile := u.ofFile[one.Name]
	_, added := u.added[one.Name]
	subjects := [][]string{one.Publishes, one.Subscribes, one.Asks}
	by, taken := u.taken(one.Name)
	many := func(list []string) bool { return len(list) > mostSubjects }
	switch {
	case !userName.MatchString(one.Name):
		return refuse(control.CodeBadRequest, fmt.Sprintf("%q is no name of a user", one.Name), "a small letter, then small letters, digits and dashes; 63 at most")
	case bus.NamesInstance(one.Name):
		return refuse(control.CodeBadRequest, one.Name+" could be the name of an instance, which ends in a dash and a number", "")
	case ofFile:
		return refuse(control.CodeConflict, "the file names a user "+one.Name, "change bus.users in the file, then: fairlead reload")
	case taken:
		return refuse(control.CodeConflict, one.Name+" is the name of "+by, "")
	case added:
		return refuse(control.CodeConflict, "there is a user "+one.Name+" already", "for a new password: fairlead bus user revoke "+one.Name+", then add it again")
	case !one.Expires.IsZero() && !time.Now().Before(one.Expires):
		return refuse(control.CodeBadRequest, "the user would have expired already", "")
	case len(slices.Concat(subjects...)) == 0:
		return refuse(control.CodeBadRequest, "the user could do nothing", "name subjects with --publish, --subscribe or --ask")
	case slices.ContainsFunc(subjects, many):
		return refuse(control.CodeBadRequest, fmt.Sprintf("a user may have %d subjects of a kind", mostSubjects), "use wildcards")
	case len(u.added) >= mostUsers:
		return refuse(control.CodeConflict, fmt.Sprintf("there are %d users already, and no more are kept", mostUsers), "revoke some: fairlead bus user list")
	}
	return nil
}

// taken says who has that name in the system. The mutex is held.
func (u *users) taken(name string) (by string, taken bool) {
	if u.sys == nil {
		return "", false
	}
	return u.sys.TakenOnBus(name)
}

func (u *users) revoke(ctx context.Context, req control.BusUserRevokeRequest, _ func(control.Event)) (control.BusUser, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ofFile := u.ofFile[req.Name]
	one, ok := u.added[req.Name]
	switch {
	case ofFile && !ok:
		return control.BusUser{}, &control.Error{
			Code: control.CodeConflict, Message: "the file names the user " + req.Name,
			Hint: "take it out of bus.users, then: fairlead reload",
		}
	case !ok:
		return control.BusUser{}, &control.Error{Code: control.CodeNotFound, Message: "there is no user " + req.Name, Hint: "fairlead bus user list shows all"}
	}
	gone := userOf(one.model(), one.Since)
	if !ofFile {
		gone.Connections = u.bus.Connections(req.Name)
	}
	if err := u.state.remove(ctx, userPrefix+req.Name); err != nil {
		return control.BusUser{}, err
	}
	delete(u.added, req.Name)
	return gone, u.announce(ctx, u.added)
}

func (u *users) list(context.Context, control.Empty, func(control.Event)) ([]control.BusUser, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []control.BusUser
	for _, one := range u.ofFile {
		list = append(list, userOf(one.BusUser, time.Time{}))
	}
	for name, one := range u.added {
		if _, hidden := u.ofFile[name]; !hidden {
			list = append(list, userOf(one.model(), one.Since))
		}
	}
	slices.SortFunc(list, func(x, y control.BusUser) int { return strings.Compare(x.Name, y.Name) })
	for i := range list {
		list[i].Connections = u.bus.Connections(list[i].Name)
	}
	return list, nil
}

func userOf(u system.BusUser, since time.Time) control.BusUser {
	return control.BusUser{
		Name: u.Name, Publishes: u.Publishes, Subscribes: u.Subscribes, Asks: u.Asks, Expires: u.Expires, Since: since,
	}
}

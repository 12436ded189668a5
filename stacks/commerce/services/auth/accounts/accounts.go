// Package accounts keeps the users of the commerce system: who they are, how they
// prove it, and the tokens that they get for it.
//
// Several processes may use one database at the same time: every decision that
// must not be made twice is one immediate transaction. Passwords are hashed with
// argon2id, at most a few at a time, so that memory stays bounded. Refresh tokens
// are stored as hashes only, and each is good once. Access tokens are signed with
// keys that rotate by age; they cannot be taken back and live for 15 minutes.
//
// Nothing that a client is told depends on whether a name exists, except when
// registering one.
package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Roles, each of which may do what those before it may.
const (
	Viewer  = "viewer"
	Analyst = "analyst"
	Admin   = "admin"
)

// ranks orders the roles.
var ranks = []string{Viewer, Analyst, Admin}

// Granted returns the roles that a role stands for: an admin is an analyst and a
// viewer too. Of a role that does not exist it is nil.
func Granted(role string) []string {
	i := slices.Index(ranks, role)
	if i < 0 {
		return nil
	}
	return slices.Clone(ranks[:i+1])
}

// Administrator is the name of the first administrator.
const Administrator = "admin"

// Bounds of what a user chooses.
const (
	MinPassword = 10 // characters
	MaxPassword = 128
	maxEmail    = 254
)

var nameFormat = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{2,31}$`)

// Errors that a client may be told of.
var (
	ErrCredentials = errors.New("the name or the password is wrong")
	ErrNameTaken   = errors.New("the name is taken")
	ErrLastAdmin   = errors.New("the last administrator keeps the role")
	ErrUnknownUser = errors.New("there is no user of that name")
	ErrRefresh     = errors.New("the refresh token is not valid")
	ErrOverloaded  = errors.New("too many logins at the moment")
)

// InvalidError says what is wrong with a user's input. It may be shown.
type InvalidError struct{ Field, Problem string }

// Error makes an InvalidError an error.
func (e *InvalidError) Error() string { return e.Field + " " + e.Problem }

// LockedError is a name that is locked after too many failures in a row.
type LockedError struct{ For time.Duration }

// Error makes a LockedError an error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("too many failed logins: try again in %d s", int(e.For.Round(time.Second).Seconds()))
}

// User is an account without its secrets.
type User struct {
	Name    string
	Email   string
	Role    string
	Created time.Time
}

// Options set up [New]. The zero value is right but for DB.
type Options struct {
	DB  *sql.DB
	Now func() time.Time // default time.Now

	// Hashing is how many passwords are hashed at a time, each with 19 MiB of
	// memory. Default 2.
	Hashing int
	// KeyAge is how long a key signs before the next one takes over, default 30 days.
	KeyAge time.Duration
}

// Accounts is safe for concurrent use.
type Accounts struct {
	db      *sql.DB
	now     func() time.Time
	hashing chan struct{}
	waiting chan struct{}
	keyAge  time.Duration
	keys    keyring
	cost    cost
	decoy   string // hash that a password is compared with where there is no user
}

const waitingPerHash = 16

// New returns the accounts in a database that init.auth.sql has prepared.
func New(o Options) (*Accounts, error) { return newAccounts(o, usualCost) }

func newAccounts(o Options, c cost) (*Accounts, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hashing <= 0 {
		o.Hashing = 2
	}
	if o.KeyAge <= 0 {
		o.KeyAge = 30 * 24 * time.Hour
	}
	decoy, err := hashPassword("a password that nobody has", c)
	if err != nil {
		return nil, err
	}
	return &Accounts{
		db: o.DB, now: o.Now, keyAge: o.KeyAge, cost: c, decoy: decoy,
		hashing: make(chan struct{}, o.Hashing),
		waiting: make(chan struct{}, o.Hashing*(waitingPerHash+1)),
	}, nil
}

// hash runs do when it is its turn. Beyond a bounded queue the error is
// ErrOverloaded.
func (a *Accounts) hash(ctx context.Context, do func() error) error {
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		return ErrOverloaded
	}
	select {
	case a.hashing <- struct{}{}:
		defer func() { <-a.hashing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return do()
}

// write runs do in a transaction that has the database's write lock from its start.
func (a *Accounts) write(ctx context.Context, do func(*sql.Tx) error) error {
	// fairlead/service/sqlite begins transactions immediately.
	tx, err := a.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// EnsureAdministrator makes the first administrator with that password, unless
// there is an administrator already. It reports whether it did.
func (a *Accounts) EnsureAdministrator(ctx context.Context, password string) (bool, error) {
	exists := func(q interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	},
	) (there bool, err error) {
		err = q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE role = ?)`, Admin).Scan(&there)
		return there, err
	}
	there, err := exists(a.db)
	if err != nil || there {
		return false, err
	}
	if err := checkPassword(password); err != nil {
		return false, fmt.Errorf("make administrator: %w", err)
	}
	hashed, err := hashPassword(password, a.cost)
	if err != nil {
		return false, err
	}
	made := false
	err = a.write(ctx, func(tx *sql.Tx) error {
		// The other instance may have been faster.
		if there, err := exists(tx); err != nil || there {
			return err
		}
		made = true
		_, err := tx.ExecContext(ctx, `INSERT INTO users (name, email, role, password, created) VALUES (?, '', ?, ?, ?)
			ON CONFLICT DO UPDATE SET role = excluded.role, password = excluded.password`,
			Administrator, Admin, hashed, a.now().UnixMilli())
		return err
	})
	if err != nil {
		return false, fmt.Errorf("make administrator: %w", err)
	}
	return made, nil
}

// Register makes a viewer. email may be empty. Errors: *InvalidError,
// [ErrNameTaken], [ErrOverloaded].
func (a *Accounts) Register(ctx context.Context, name, email, password string) (User, error) {
	name, email = fold(name), strings.TrimSpace(email)
	if err := errors.Join(checkName(name), checkEmail(email), checkPassword(password)); err != nil {
		return User{}, err
	}
	if strings.Contains(strings.ToLower(password), name) {
		return User{}, &InvalidError{"password", "must not contain the name"}
	}
	var taken bool
	if err := a.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE name = ?)`, name).Scan(&taken); err != nil {
		return User{}, fmt.Errorf("look for user: %w", err)
	}
	if taken || name == Administrator {
		return User{}, ErrNameTaken
	}
	var hashed string
	if err := a.hash(ctx, func() (err error) {
		hashed, err = hashPassword(password, a.cost)
		return err
	}); err != nil {
		return User{}, err
	}
	user := User{Name: name, Email: email, Role: Viewer, Created: a.now().Truncate(time.Millisecond)}
	err := a.write(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `INSERT INTO users (name, email, role, password, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			user.Name, user.Email, user.Role, hashed, user.Created.UnixMilli())
		if err != nil {
			return fmt.Errorf("insert user: %w", err)
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrNameTaken)
		}
		return nil
	})
	if err != nil {
		return User{}, err
	}
	return user, nil
}

// User returns the account of that name, or [ErrUnknownUser].
func (a *Accounts) User(ctx context.Context, name string) (User, error) {
	u, _, err := a.find(ctx, fold(name))
	return u, err
}

func (a *Accounts) find(ctx context.Context, name string) (User, string, error) {
	var u User
	var hashed string
	var created int64
	err := a.db.QueryRowContext(ctx, `SELECT name, email, role, password, created FROM users WHERE name = ?`, name).
		Scan(&u.Name, &u.Email, &u.Role, &hashed, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, "", ErrUnknownUser
	}
	if err != nil {
		return User{}, "", fmt.Errorf("find user: %w", err)
	}
	u.Created = time.UnixMilli(created)
	return u, hashed, nil
}

// SetRole gives a user another role, which new access tokens carry. When it takes
// rights away, the user has to log in again. Errors: *InvalidError,
// [ErrUnknownUser], [ErrLastAdmin].
func (a *Accounts) SetRole(ctx context.Context, name, role string) (User, error) {
	name = fold(name)
	if Granted(role) == nil {
		return User{}, &InvalidError{"role", "must be one of " + strings.Join(ranks, ", ")}
	}
	err := a.write(ctx, func(tx *sql.Tx) error {
		var old string
		err := tx.QueryRowContext(ctx, `SELECT role FROM users WHERE name = ?`, name).Scan(&old)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknownUser
		}
		if err != nil {
			return fmt.Errorf("read role: %w", err)
		}
		if old == Admin && role != Admin {
			var admins int
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM users WHERE role = ?`, Admin).Scan(&admins); err != nil {
				return fmt.Errorf("count administrators: %w", err)
			}
			if admins == 1 {
				return ErrLastAdmin
			}
		}
		if _, err := tx.ExecContext(ctx, `UPDATE users SET role = ? WHERE name = ?`, role, name); err != nil {
			return fmt.Errorf("set role: %w", err)
		}
		if slices.Index(ranks, role) >= slices.Index(ranks, old) {
			return nil
		}
		_, err = tx.ExecContext(ctx, `UPDATE families SET revoked = 'role' WHERE user = ? AND revoked = ''`, name)
		return err
	})
	if err != nil {
		return User{}, err
	}
	return a.User(ctx, name)
}

func fold(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

func checkName(name string) error {
	if !nameFormat.MatchString(name) {
		return &InvalidError{"username", "must be 3 to 32 of a-z, 0-9, dot, dash and underscore, and begin with a letter or digit"}
	}
	return nil
}

func checkEmail(email string) error {
	if email == "" {
		return nil
	}
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > maxEmail {
		return &InvalidError{"email", "must be an address like name@example.org"}
	}
	return nil
}

func checkPassword(password string) error {
	n := utf8.RuneCountInString(password)
	if n < MinPassword || n > MaxPassword || !utf8.ValidString(password) {
		return &InvalidError{"password", fmt.Sprintf("must have %d to %d characters", MinPassword, MaxPassword)}
	}
	return nil
}

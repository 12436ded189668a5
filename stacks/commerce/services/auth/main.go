// Auth is the service that knows the users of the commerce system: it registers
// them, logs them in, gives out their tokens and publishes the keys that these are
// signed with.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"fairlead/service"
	_ "fairlead/service/sqlite" // the auth database
	"fairlead/stacks/commerce/services/auth/accounts"
)

func main() {
	service.Main(setup)
}

func setup(s *service.Service) error {
	db := s.Database("auth")
	password := s.Secret("ADMIN_PASSWORD")
	a, err := accounts.New(accounts.Options{DB: db})
	if err != nil {
		return err
	}
	made, err := a.EnsureAdministrator(s.Context(), password)
	if err != nil {
		return err
	}
	if made {
		s.Logger().Info("first administrator made", "name", accounts.Administrator)
	}
	api{a}.register(s)
	return nil
}

// api is what the service answers.
type api struct{ accounts *accounts.Accounts }

func (a api) register(s *service.Service) {
	service.Answer(s, "auth.register", a.signUp)
	service.Answer(s, "auth.login", a.login)
	service.Answer(s, "auth.refresh", a.refresh)
	service.Answer(s, "auth.logout", a.logout)
	service.Answer(s, "auth.me", a.me)
	service.Answer(s, "auth.role", a.role)
	service.Answer(s, "auth.jwks", func(ctx context.Context, _ struct{}) (json.RawMessage, error) {
		return a.accounts.KeySet(ctx)
	})
}

type profile struct {
	Username string    `json:"username"`
	Email    string    `json:"email,omitempty"`
	Role     string    `json:"role"`
	Roles    []string  `json:"roles"`
	Created  time.Time `json:"created"`
}

func profileOf(u accounts.User) profile {
	return profile{u.Name, u.Email, u.Role, accounts.Granted(u.Role), u.Created.UTC()}
}

func (a api) signUp(ctx context.Context, req signUp) (service.Reply[profile], error) {
	if err := given([2]string{"username", strings.TrimSpace(req.Username)}, [2]string{"password", req.Password}); err != nil {
		return service.Reply[profile]{}, err
	}
	u, err := a.accounts.Register(ctx, req.Username, req.Email, req.Password)
	return service.Reply[profile]{Status: http.StatusCreated, Body: profileOf(u)}, public(err)
}

// tokens is OAuth's form of a token reply (RFC 6749, 5.1).
type tokens struct {
	AccessToken  string   `json:"access_token"`
	TokenType    string   `json:"token_type"`
	ExpiresIn    int      `json:"expires_in"` // seconds
	RefreshToken string   `json:"refresh_token"`
	Username     string   `json:"username"`
	Roles        []string `json:"roles"`
}

func tokensOf(t accounts.Tokens) tokens {
	return tokens{t.Access, "Bearer", int(t.Expires / time.Second), t.Refresh, t.User.Name, accounts.Granted(t.User.Role)}
}

func (a api) login(ctx context.Context, req credentials) (tokens, error) {
	if err := given([2]string{"username", strings.TrimSpace(req.Username)}, [2]string{"password", req.Password}); err != nil {
		return tokens{}, err
	}
	t, err := a.accounts.Login(ctx, req.Username, req.Password)
	return tokensOf(t), public(err)
}

func (a api) refresh(ctx context.Context, req refreshToken) (tokens, error) {
	if err := given([2]string{"refresh_token", req.RefreshToken}); err != nil {
		return tokens{}, err
	}
	t, err := a.accounts.Refresh(ctx, req.RefreshToken)
	return tokensOf(t), public(err)
}

func (a api) logout(ctx context.Context, req refreshToken) (struct{}, error) {
	// A logout that names no login must not look like one that was done.
	if err := given([2]string{"refresh_token", req.RefreshToken}); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, public(a.accounts.Logout(ctx, req.RefreshToken))
}

func (a api) me(ctx context.Context, _ struct{}) (profile, error) {
	user, ok := service.User(ctx)
	if !ok {
		return profile{}, service.Errorf(http.StatusUnauthorized, "log in first")
	}
	u, err := a.accounts.User(ctx, user.Subject)
	return profileOf(u), public(err)
}

type newRole struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

func (a api) role(ctx context.Context, req newRole) (profile, error) {
	// The route asks for the role too; whoever may ask on the bus is not a user.
	user, ok := service.User(ctx)
	if !ok {
		return profile{}, service.Errorf(http.StatusUnauthorized, "log in first")
	}
	caller, err := a.accounts.User(ctx, user.Subject)
	if err != nil && !errors.Is(err, accounts.ErrUnknownUser) {
		return profile{}, public(err)
	}
	// By the database, not by the token: an administrator who is none any more must
	// not hand out roles for the rest of a token's life.
	if caller.Role != accounts.Admin {
		return profile{}, service.Errorf(http.StatusForbidden, "only an administrator changes roles")
	}
	u, err := a.accounts.SetRole(ctx, req.Name, req.Role)
	return profileOf(u), public(err)
}

// public gives an error the status and the text that the client gets.
func public(err error) error {
	var invalid *accounts.InvalidError
	var locked *accounts.LockedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return service.Errorf(http.StatusUnprocessableEntity, "%s", invalid.Error())
	case errors.As(err, &locked):
		return service.Errorf(http.StatusTooManyRequests, "%s", locked.Error())
	}
	for known, status := range map[error]int{
		accounts.ErrCredentials: http.StatusUnauthorized,
		accounts.ErrRefresh:     http.StatusUnauthorized,
		accounts.ErrNameTaken:   http.StatusConflict,
		accounts.ErrLastAdmin:   http.StatusConflict,
		accounts.ErrUnknownUser: http.StatusNotFound,
		accounts.ErrOverloaded:  http.StatusServiceUnavailable,
	} {
		if errors.Is(err, known) {
			return service.Errorf(status, "%s", known.Error())
		}
	}
	return fmt.Errorf("use accounts: %w", err)
}

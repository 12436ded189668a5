package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

const (
	// AccessLifetime is how long an access token is good.
	AccessLifetime = 15 * time.Minute
	// RefreshLifetime is how long a refresh token is good when it is not used.
	RefreshLifetime = 14 * 24 * time.Hour
	// FamilyLifetime is how long one login can be kept up by refreshing.
	FamilyLifetime = 90 * 24 * time.Hour
	// RepeatGrace is how long a refresh that was answered may be repeated.
	RepeatGrace = 10 * time.Second

	refreshBytes = 32
)

// Why a family was revoked.
const (
	revokedLogout = "logout"
	revokedReuse  = "reuse"
)

// Tokens is what a login or a refresh gives.
type Tokens struct {
	Access  string
	Expires time.Duration // of the access token, from now
	Refresh string
	User    User
}

// begin starts a family of refresh tokens, and forgets the user's failures.
func (a *Accounts) begin(ctx context.Context, user User) (Tokens, error) {
	token, err := randomToken()
	if err != nil {
		return Tokens{}, err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return Tokens{}, fmt.Errorf("read random bytes: %w", err)
	}
	family := hex.EncodeToString(id)
	now := a.now()
	err = a.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM failures WHERE name = ?`, user.Name); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM families WHERE id IN (SELECT id FROM families WHERE expires < ? LIMIT 100)`, now.UnixMilli()); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO families (id, user, expires, revoked) VALUES (?, ?, ?, '')`,
			family, user.Name, now.Add(FamilyLifetime).UnixMilli()); err != nil {
			return err
		}
		return insertToken(ctx, tx, token, family, now)
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("begin session: %w", err)
	}
	return a.tokens(ctx, user, token)
}

func insertToken(ctx context.Context, tx *sql.Tx, token, family string, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO refresh_tokens (hash, family, expires, used) VALUES (?, ?, ?, 0)`,
		hashToken(token), family, now.Add(RefreshLifetime).UnixMilli())
	return err
}

func (a *Accounts) tokens(ctx context.Context, user User, refresh string) (Tokens, error) {
	access, err := a.sign(ctx, user)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{Access: access, Expires: AccessLifetime, Refresh: refresh, User: user}, nil
}

// Refresh gives new tokens for a refresh token, which is good once. The error is
// [ErrRefresh].
//
// Whoever gives one that was used already may have stolen it, or is the one it was
// stolen from: its whole family is revoked, and the user has to log in again. One
// thing is not taken for that: the same request again within [RepeatGrace], while
// the token that it was answered with has not been used. It is what a double click,
// two tabs or a lost answer look like, and gets the same refresh token again. (The
// next token is computed from the one before with a key of the database, so that it
// need not be stored to be given twice.)
func (a *Accounts) Refresh(ctx context.Context, token string) (Tokens, error) {
	if len(token) != base64.RawURLEncoding.EncodedLen(refreshBytes) {
		return Tokens{}, ErrRefresh
	}
	var user User
	var next string
	now := a.now()
	refused := false
	err := a.write(ctx, func(tx *sql.Tx) error {
		refused = false
		var t storedToken
		if err := t.read(ctx, tx, token); err != nil {
			return err
		}
		if t.revoked != "" || now.UnixMilli() >= t.expires || now.UnixMilli() >= t.familyExpires {
			return ErrRefresh
		}
		var err error
		if next, err = a.successor(ctx, tx, token); err != nil {
			return err
		}
		if t.used != 0 {
			repeat, err := a.mayRepeat(ctx, tx, t, next, now)
			if err != nil {
				return err
			}
			if !repeat {
				// Committed, not rolled back: hence no error here.
				refused = true
				_, err := tx.ExecContext(ctx, `UPDATE families SET revoked = ? WHERE id = ?`, revokedReuse, t.family)
				return err
			}
		} else {
			if _, err := tx.ExecContext(ctx, `UPDATE refresh_tokens SET used = ? WHERE hash = ?`, now.UnixMilli(), hashToken(token)); err != nil {
				return err
			}
			if err := insertToken(ctx, tx, next, t.family, now); err != nil {
				return err
			}
		}
		var created int64
		err = tx.QueryRowContext(ctx, `SELECT name, email, role, created FROM users WHERE name = ?`, t.user).
			Scan(&user.Name, &user.Email, &user.Role, &created)
		user.Created = time.UnixMilli(created)
		return err
	})
	if err != nil {
		return Tokens{}, fmt.Errorf("refresh: %w", err)
	}
	if refused {
		return Tokens{}, ErrRefresh
	}
	return a.tokens(ctx, user, next)
}

// storedToken is what is known of a refresh token.
type storedToken struct {
	family, user, revoked        string
	expires, familyExpires, used int64
}

func (t *storedToken) read(ctx context.Context, tx *sql.Tx, token string) error {
	err := tx.QueryRowContext(ctx, `SELECT t.family, t.expires, t.used, f.user, f.expires, f.revoked
		FROM refresh_tokens t JOIN families f ON f.id = t.family WHERE t.hash = ?`, hashToken(token)).
		Scan(&t.family, &t.expires, &t.used, &t.user, &t.familyExpires, &t.revoked)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrRefresh
	}
	return err
}

// mayRepeat reports whether a used token may be answered once more.
func (a *Accounts) mayRepeat(ctx context.Context, tx *sql.Tx, t storedToken, next string, now time.Time) (bool, error) {
	if now.Sub(time.UnixMilli(t.used)) >= RepeatGrace {
		return false, nil
	}
	var used int64
	err := tx.QueryRowContext(ctx, `SELECT used FROM refresh_tokens WHERE hash = ?`, hashToken(next)).Scan(&used)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return used == 0, err
}

// successor returns the refresh token that follows one.
func (a *Accounts) successor(ctx context.Context, tx *sql.Tx, token string) (string, error) {
	var key []byte
	err := tx.QueryRowContext(ctx, `SELECT key FROM chain`).Scan(&key)
	if errors.Is(err, sql.ErrNoRows) {
		key = make([]byte, sha256.Size)
		if _, err := rand.Read(key); err != nil {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO chain (key) VALUES (?)`, key)
	}
	if err != nil {
		return "", fmt.Errorf("read chain key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(token))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}

// Logout revokes the family of a refresh token. A token that is not known, or whose
// family is revoked, is no error: the user is logged out.
func (a *Accounts) Logout(ctx context.Context, token string) error {
	err := a.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE families SET revoked = ? WHERE revoked = '' AND id =
			(SELECT family FROM refresh_tokens WHERE hash = ?)`, revokedLogout, hashToken(token))
		return err
	})
	if err != nil {
		return fmt.Errorf("log out: %w", err)
	}
	return nil
}

func randomToken() (string, error) {
	b := make([]byte, refreshBytes)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

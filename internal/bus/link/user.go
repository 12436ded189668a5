package link

import (
	"errors"
	"fmt"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// User returns the text of the .creds file with which the system is a user of the
// server's account: Credentials, or a new user that SigningKey has signed. nil: the
// URL says who it is. Whoever has the text is that user, until the account's owner
// revokes it or the key; a user that is signed here does not expire, since its private
// key leaves the data folder never.
func (s Server) User(name string) ([]byte, error) {
	switch {
	case s.Credentials != "":
		token, err := jwt.ParseDecoratedJWT([]byte(s.Credentials))
		if err == nil {
			_, err = jwt.DecodeUserClaims(token)
		}
		if err != nil {
			return nil, errors.New("credentials are not the text of a .creds file") // the error may show them
		}
		if _, err := nkeys.ParseDecoratedNKey([]byte(s.Credentials)); err != nil {
			return nil, errors.New("credentials hold no key of a user")
		}
		return []byte(s.Credentials), nil
	case s.SigningKey != "":
		text, err := s.sign(name)
		if err != nil {
			return nil, fmt.Errorf("sign a user: %w", err)
		}
		return text, nil
	default:
		return nil, nil
	}
}

// sign makes a user of the account.
func (s Server) sign(name string) ([]byte, error) {
	signer, err := nkeys.FromSeed([]byte(s.SigningKey))
	if err != nil {
		return nil, errors.New("signing_key is not the seed of a key")
	}
	defer signer.Wipe()
	public, err := signer.PublicKey()
	if err != nil || !nkeys.IsValidPublicAccountKey(public) {
		return nil, errors.New("signing_key must be one of an account, its seed begins with SA")
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	defer user.Wipe()
	id, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewUserClaims(id)
	claims.Name = name
	if s.Account != "" && s.Account != public {
		if !nkeys.IsValidPublicAccountKey(s.Account) {
			return nil, errors.New("account is not the public key of an account, which begins with A")
		}
		claims.IssuerAccount = s.Account
	}
	token, err := claims.Encode(signer)
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	return jwt.FormatUserConfig(token, seed)
}

package filter

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// Credentials are secrets with the names of those who know them. Only digests under
// a key of this process are kept. It is immutable.
type Credentials struct {
	key  [32]byte
	sums [][sha256.Size]byte
}

// Credential is what somebody is known by: name and password, or a key without a
// name.
type Credential struct{ Name, Secret string }

// NewCredentials returns the set of all. An empty secret is known to nobody.
func NewCredentials(all []Credential) *Credentials {
	c := &Credentials{sums: make([][sha256.Size]byte, len(all))}
	_, _ = rand.Read(c.key[:]) // never fails
	for i, one := range all {
		if one.Secret == "" {
			_, _ = rand.Read(c.sums[i][:]) // as above
			continue
		}
		c.sums[i] = c.sum(one)
	}
	return c
}

// Find returns which credential is meant. It takes the same time whether, and
// where, one is found.
func (c *Credentials) Find(one Credential) (int, bool) {
	sum := c.sum(one)
	found := -1
	for i := range c.sums {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], c.sums[i][:]), i, found)
	}
	return found, found >= 0
}

func (c *Credentials) sum(one Credential) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, c.key[:])
	name := sha256.Sum256([]byte(one.Name)) // so that no name and secret run into another
	_, _ = h.Write(name[:])                 // a hash takes everything
	_, _ = h.Write([]byte(one.Secret))
	h.Sum(sum[:0])
	return sum
}

// MaxCredential is the longest password or key in bytes, as it stands in a header.
const MaxCredential = 1 << 10

// ParseBasic reads the value of an Authorization header of the scheme Basic (RFC
// 7617). scheme says whether it is of that scheme at all; ok whether it could be
// read.
func ParseBasic(value string) (c Credential, scheme, ok bool) {
	name, rest, _ := strings.Cut(value, " ")
	if !strings.EqualFold(name, "Basic") {
		return Credential{}, false, false
	}
	rest = strings.Trim(rest, " ")
	if len(rest) > MaxCredential || strings.ContainsAny(rest, "\r\n") { // the decoder would skip line ends
		return Credential{}, true, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	if err != nil {
		return Credential{}, true, false
	}
	user, password, found := strings.Cut(string(b), ":")
	if !found || strings.ContainsFunc(string(b), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Credential{}, true, false
	}
	return Credential{Name: user, Secret: password}, true, true
}

package accounts

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

const (
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonKey     = 32 // bytes
)

// cost is what a hash costs.
type cost struct {
	memory uint32 // KiB
	passes uint32
}

// usualCost is OWASP's first recommendation for argon2id.
var usualCost = cost{memory: 19 * 1024, passes: 2}

// Bounds of what a stored hash may ask for, so that a damaged one cannot take all
// the memory.
const (
	maxArgonMemory = 256 * 1024 // KiB
	maxArgonTime   = 16
)

var errHash = errors.New("stored password hash is damaged")

// hashPassword returns an argon2id hash in PHC format.
func hashPassword(password string, c cost) (string, error) {
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	key := argon2.IDKey([]byte(password), salt, c.passes, c.memory, argonThreads, argonKey)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.passes, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

// verifyPassword reports whether the hash is that of the password.
func verifyPassword(hashed, password string) (bool, error) {
	fields := strings.Split(hashed, "$")
	if len(fields) != 6 || fields[1] != "argon2id" {
		return false, errHash
	}
	var version int
	if _, err := fmt.Sscanf(fields[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false, errHash
	}
	var memory, passes uint32
	var threads uint8
	if _, err := fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil ||
		memory == 0 || memory > maxArgonMemory || passes == 0 || passes > maxArgonTime || threads == 0 {
		return false, errHash
	}
	salt, err := base64.RawStdEncoding.DecodeString(fields[4])
	if err != nil {
		return false, errHash
	}
	want, err := base64.RawStdEncoding.DecodeString(fields[5])
	if err != nil || len(want) < argonSalt {
		return false, errHash
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

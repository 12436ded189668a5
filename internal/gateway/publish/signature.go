package publish

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/system"
)

const (
	// tolerance is how far a signature's time may be from ours, either way; what is
	// older may be somebody's who has listened. Stripe's and Standard Webhooks' own.
	tolerance = 5 * time.Minute
	// signatures is how many of one request are looked at: a sender that changes its
	// secret signs with both for a while.
	signatures = 8
)

// prove reports whether a request comes from who knows the secret. It takes the same
// time wherever a signature is wrong.
type prove func(h http.Header, body []byte, now time.Time) bool

// newProve compiles a route's signature.
func newProve(s *system.Signature, secret string) (prove, error) {
	if secret == "" {
		return nil, fmt.Errorf("signature: the secret %s has no value", s.Secret)
	}
	switch s.Kind {
	case system.SignatureGitHub:
		return func(h http.Header, body []byte, _ time.Time) bool { return github([]byte(secret), h, body) }, nil
	case system.SignatureStripe:
		return func(h http.Header, body []byte, now time.Time) bool { return stripe([]byte(secret), h, body, now) }, nil
	case system.SignatureStandard:
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || len(key) == 0 {
			return nil, errors.New("signature: a secret of Standard Webhooks is base64, perhaps with whsec_ before it; this one is not")
		}
		return func(h http.Header, body []byte, now time.Time) bool { return standard(key, h, body, now) }, nil
	case system.SignatureToken:
		name := textproto.CanonicalMIMEHeaderKey(s.Header)
		want := sha256.Sum256([]byte(secret))
		return func(h http.Header, _ []byte, _ time.Time) bool {
			got := sha256.Sum256([]byte(only(h, name)))
			return subtle.ConstantTimeCompare(got[:], want[:]) == 1
		}, nil
	}
	return nil, fmt.Errorf("signature: kind %q is not known", s.Kind)
}

// signed returns what can be said of a request's headers without its body: a token proves
// all, what is signed at least bears a signature.
func signed(kind string, prove prove) func(http.Header) bool {
	name := map[string]string{
		system.SignatureGitHub: "X-Hub-Signature-256", system.SignatureStripe: "Stripe-Signature", system.SignatureStandard: "Webhook-Signature",
	}[kind]
	if name == "" {
		return func(h http.Header) bool { return prove(h, nil, time.Now()) }
	}
	return func(h http.Header) bool { return only(h, name) != "" }
}

// only is the value of a header that is there once, else "".
func only(h http.Header, name string) string {
	if values := h[name]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// mac is the HMAC-SHA256 of some texts one after the other.
func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		_, _ = m.Write(p) // a hash takes everything
	}
	return m.Sum(nil)
}

// github checks X-Hub-Signature-256: sha256=HEX of the body
// (https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries).
func github(secret []byte, h http.Header, body []byte) bool {
	text, ok := strings.CutPrefix(only(h, "X-Hub-Signature-256"), "sha256=")
	got, err := hex.DecodeString(text)
	return ok && err == nil && hmac.Equal(got, mac(secret, body))
}

// stripe checks Stripe-Signature: t=TIME,v1=HEX of time, dot and body
// (https://docs.stripe.com/webhooks#verify-manually). Other schemes are not looked at.
func stripe(secret []byte, h http.Header, body []byte, now time.Time) bool {
	var at string
	var all [][]byte
	for part := range strings.SplitSeq(only(h, "Stripe-Signature"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			if at != "" {
				return false
			}
			at = value
		case "v1":
			if got, err := hex.DecodeString(value); err == nil && len(all) < signatures {
				all = append(all, got)
			}
		}
	}
	return recent(at, now) && oneOf(all, mac(secret, []byte(at), []byte{'.'}, body))
}

// standard checks webhook-id, webhook-timestamp and webhook-signature: v1,BASE64 of
// id, dot, time, dot and body, several with spaces between
// (https://github.com/standard-webhooks/standard-webhooks, "Signature scheme").
func standard(key []byte, h http.Header, body []byte, now time.Time) bool {
	id, at := only(h, "Webhook-Id"), only(h, "Webhook-Timestamp")
	var all [][]byte
	for part := range strings.FieldsSeq(only(h, "Webhook-Signature")) {
		version, value, _ := strings.Cut(part, ",")
		if got, err := base64.StdEncoding.DecodeString(value); version == "v1" && err == nil && len(all) < signatures {
			all = append(all, got)
		}
	}
	return id != "" && recent(at, now) && oneOf(all, mac(key, []byte(id), []byte{'.'}, []byte(at), []byte{'.'}, body))
}

// recent reports whether a time, in seconds since 1970, is about now.
func recent(at string, now time.Time) bool {
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return false
	}
	return now.Sub(time.Unix(seconds, 0)).Abs() <= tolerance
}

func oneOf(all [][]byte, want []byte) bool {
	found := false
	for _, got := range all {
		found = hmac.Equal(got, want) || found
	}
	return found
}

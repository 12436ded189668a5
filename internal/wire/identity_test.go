package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testTime = time.Unix(1_800_000_000, 0)

func testKeys() (ed25519.PublicKey, ed25519.PrivateKey) {
	priv := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	return priv.Public().(ed25519.PublicKey), priv
}

func testIdentity() Identity {
	return Identity{
		Subject: "user-1",
		Roles:   []string{"analyst", "viewer"},
		Claims:  map[string]any{"email": "a@example.org", "big": json.Number("9007199254740993")},
		Service: "tradeflow",
		System:  "commerce",
		Issued:  testTime,
		Expires: testTime.Add(time.Minute),
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	pub, priv := testKeys()
	token, err := NewSigner(priv, "commerce").Sign(testIdentity())
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier(pub, "commerce", "tradeflow")
	for range 2 { // the second comes from the cache
		got, err := v.Verify(token, testTime)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, testIdentity()) {
			t.Fatalf("got %+v", got)
		}
		got.Roles[0] = "admin" // must not reach the next receiver
		got.Claims["email"] = "changed"
	}
	if id := testIdentity(); !id.HasRole("admin", "viewer") || id.HasRole("admin") || id.HasRole() {
		t.Error("HasRole is wrong")
	}
}

func TestSignDefaultsAndErrors(t *testing.T) {
	pub, priv := testKeys()
	s := NewSigner(priv, "commerce")
	token, err := s.Sign(Identity{Subject: "u", Service: "s"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewVerifier(pub, "commerce", "s").Verify(token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := id.Expires.Sub(id.Issued); got != DefaultIdentityLife {
		t.Errorf("lives %s", got)
	}
	for name, id := range map[string]Identity{
		"no subject":    {Service: "s"},
		"no service":    {Subject: "u"},
		"ends first":    {Subject: "u", Service: "s", Issued: testTime, Expires: testTime},
		"not JSON":      {Subject: "u", Service: "s", Claims: map[string]any{"f": func() {}}},
		"far too large": {Subject: strings.Repeat("u", MaxIdentityToken), Service: "s"},
	} {
		if _, err := s.Sign(id); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// forge makes a token with any header and payload.
func forge(header, payload string, sign func(input string) []byte) string {
	e := base64.RawURLEncoding
	input := e.EncodeToString([]byte(header)) + "." + e.EncodeToString([]byte(payload))
	return input + "." + e.EncodeToString(sign(input))
}

func TestVerifyRefuses(t *testing.T) {
	pub, priv := testKeys()
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good, err := NewSigner(priv, "commerce").Sign(testIdentity())
	if err != nil {
		t.Fatal(err)
	}
	eddsa := func(key ed25519.PrivateKey) func(string) []byte {
		return func(in string) []byte { return ed25519.Sign(key, []byte(in)) }
	}
	hs256 := func(in string) []byte {
		m := hmac.New(sha256.New, pub)
		m.Write([]byte(in))
		return m.Sum(nil)
	}
	none := func(string) []byte { return nil }
	payload := func(iss, aud, sub string, iat, exp int64) string {
		return fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":%q,"iat":%d,"exp":%d}`, iss, aud, sub, iat, exp)
	}
	at := testTime.Unix()
	fine := payload("fairlead/commerce", "tradeflow", "u", at, at+60)
	if _, err := NewVerifier(pub, "commerce", "tradeflow").Verify(forge(identityHeader, fine, eddsa(priv)), testTime); err != nil {
		t.Fatalf("the base of the forgeries must be good: %v", err)
	}
	parts := strings.Split(good, ".")
	first := "A"
	if parts[2][0] == 'A' {
		first = "B"
	}
	flipped := parts[0] + "." + parts[1] + "." + first + parts[2][1:]

	tests := []struct {
		name, token string
		now         time.Time
		want        error
	}{
		{"empty", "", testTime, ErrIdentityMalformed},
		{"no dots", "abc", testTime, ErrIdentityMalformed},
		{"four parts", good + ".x", testTime, ErrIdentityMalformed},
		{"no signature part", parts[0] + "." + parts[1], testTime, ErrIdentityMalformed},
		{"padding", good + "==", testTime, ErrIdentityMalformed},
		{"line break", parts[0] + "." + parts[1] + ".\n" + parts[2], testTime, ErrIdentityMalformed},
		{"space before", " " + good, testTime, ErrIdentityHeader},
		{"too long", good + strings.Repeat("A", MaxIdentityToken), testTime, ErrIdentityMalformed},
		{"alg none", forge(`{"alg":"none","typ":"fairlead-identity+jwt"}`, fine, none), testTime, ErrIdentityHeader},
		{"alg none, our header", forge(identityHeader, fine, none), testTime, ErrIdentitySignature},
		{"HS256 with the public key", forge(`{"alg":"HS256","typ":"fairlead-identity+jwt"}`, fine, hs256), testTime, ErrIdentityHeader},
		{"HS256 under our header", forge(identityHeader, fine, hs256), testTime, ErrIdentitySignature},
		{"type of an access token", forge(`{"alg":"EdDSA","typ":"JWT"}`, fine, eddsa(priv)), testTime, ErrIdentityHeader},
		{"second spelling of the header", forge(`{"typ":"fairlead-identity+jwt","alg":"EdDSA"}`, fine, eddsa(priv)), testTime, ErrIdentityHeader},
		{"key of another", forge(identityHeader, fine, eddsa(other)), testTime, ErrIdentitySignature},
		{"signature changed", flipped, testTime, ErrIdentitySignature},
		{"payload changed", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(fine)) + "." + parts[2], testTime, ErrIdentitySignature},
		{"issuer of another system", forge(identityHeader, payload("fairlead/other", "tradeflow", "u", at, at+60), eddsa(priv)), testTime, ErrIdentityIssuer},
		{"bare issuer", forge(identityHeader, payload("commerce", "tradeflow", "u", at, at+60), eddsa(priv)), testTime, ErrIdentityIssuer},
		{"audience of another service", forge(identityHeader, payload("fairlead/commerce", "auth", "u", at, at+60), eddsa(priv)), testTime, ErrIdentityAudience},
		{"no audience", forge(identityHeader, payload("fairlead/commerce", "", "u", at, at+60), eddsa(priv)), testTime, ErrIdentityAudience},
		{"audience list", forge(identityHeader, `{"iss":"fairlead/commerce","aud":["tradeflow"],"sub":"u","iat":1,"exp":2000000000}`, eddsa(priv)), testTime, ErrIdentityMalformed},
		{"no subject", forge(identityHeader, payload("fairlead/commerce", "tradeflow", "", at, at+60), eddsa(priv)), testTime, ErrIdentityMalformed},
		{"no expiry", forge(identityHeader, payload("fairlead/commerce", "tradeflow", "u", at, 0), eddsa(priv)), testTime, ErrIdentityMalformed},
		{"unknown member", forge(identityHeader, strings.Replace(fine, "{", `{"x":1,`, 1), eddsa(priv)), testTime, ErrIdentityMalformed},
		{"more behind the payload", forge(identityHeader, fine+"{}", eddsa(priv)), testTime, ErrIdentityMalformed},
		{"payload is a list", forge(identityHeader, "[]", eddsa(priv)), testTime, ErrIdentityMalformed},
		{"expired to the second", good, testTime.Add(time.Minute), ErrIdentityExpired},
		{"from the future", good, testTime.Add(-31 * time.Second), ErrIdentityFuture},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := NewVerifier(pub, "commerce", "tradeflow")
			id, err := v.Verify(tt.token, tt.now)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if id.Subject != "" {
				t.Error("an identity came with the error")
			}
			if len(v.young)+len(v.old) != 0 {
				t.Error("a refused token is remembered")
			}
		})
	}
}

func TestVerifyCachedTokenExpires(t *testing.T) {
	pub, priv := testKeys()
	token, err := NewSigner(priv, "commerce").Sign(testIdentity())
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier(pub, "commerce", "tradeflow")
	if _, err := v.Verify(token, testTime); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(token, testTime.Add(time.Minute)); !errors.Is(err, ErrIdentityExpired) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyCacheIsBounded(t *testing.T) {
	pub, _ := testKeys()
	v := NewVerifier(pub, "commerce", "tradeflow")
	for i := range 10 * cachedGeneration {
		v.remember(fmt.Sprint(i), Identity{})
		if _, ok := v.cached("0"); !ok {
			t.Fatalf("a token in use was forgotten after %d others", i)
		}
	}
	if n := len(v.young) + len(v.old); n > 2*cachedGeneration {
		t.Errorf("%d tokens are remembered", n)
	}
}

func TestKeys(t *testing.T) {
	pub, _ := testKeys()
	got, err := DecodeKey(EncodeKey(pub))
	if err != nil || !got.Equal(pub) {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, s := range []string{"", "AAAA", EncodeKey(pub) + "A", EncodeKey(pub) + "=", "!" + EncodeKey(pub)[1:]} {
		if _, err := DecodeKey(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func FuzzVerify(f *testing.F) {
	pub, priv := testKeys()
	good, err := NewSigner(priv, "commerce").Sign(testIdentity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Add(encodedIdentity + ".")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := NewVerifier(pub, "commerce", "tradeflow").Verify(token, testTime)
		if (err == nil) != (token == good) {
			t.Errorf("Verify(%q) = %+v, %v", token, id, err)
		}
	})
}

func FuzzDecodeKey(f *testing.F) {
	pub, _ := testKeys()
	f.Add(EncodeKey(pub))
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := DecodeKey(s); err == nil && !bytes.Equal(k, mustDecode(t, EncodeKey(k))) {
			t.Errorf("%q does not survive", s)
		}
	})
}

func mustDecode(t *testing.T, s string) []byte {
	t.Helper()
	k, err := DecodeKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func BenchmarkSign(b *testing.B) {
	_, priv := testKeys()
	s, id := NewSigner(priv, "commerce"), testIdentity()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	pub, priv := testKeys()
	token, err := NewSigner(priv, "commerce").Sign(testIdentity())
	if err != nil {
		b.Fatal(err)
	}
	v := NewVerifier(pub, "commerce", "tradeflow")
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.parse(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(token, testTime); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package accounts

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	_ "modernc.org/sqlite"
)

const password = "correct horse battery"

// clock is a time that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// database returns the path of an empty auth database.
func database(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.db")
	script, err := os.ReadFile("../../../init.auth.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path).Exec(string(script)); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// instance returns accounts on a database, as one instance of the service has them.
func instance(t *testing.T, path string, c *clock) *Accounts {
	t.Helper()
	a, err := newAccounts(Options{DB: open(t, path), Now: c.Now, Hashing: 4}, cost{memory: 64, passes: 1})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func single(t *testing.T) (*Accounts, *clock) {
	t.Helper()
	c := newClock()
	return instance(t, database(t), c), c
}

func registered(t *testing.T, a *Accounts, name string) {
	t.Helper()
	if _, err := a.Register(t.Context(), name, "", password); err != nil {
		t.Fatal(err)
	}
}

func loggedIn(t *testing.T, a *Accounts, name string) Tokens {
	t.Helper()
	tokens, err := a.Login(t.Context(), name, password)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestRegister(t *testing.T) {
	a, _ := single(t)
	registered(t, a, "taken")
	tests := []struct {
		name, user, email, password string
		field                       string // of the InvalidError, "" for none
		err                         error
	}{
		{"good", "eve", "eve@example.org", password, "", nil},
		{"in capitals, with spaces around", "  Mallory ", "", password, "", nil},
		{"taken", "taken", "", password, "", ErrNameTaken},
		{"taken in capitals", "TAKEN", "", password, "", ErrNameTaken},
		{"the administrator's, before there is one", "admin", "", password, "", ErrNameTaken},
		{"short name", "ab", "", password, "username", nil},
		{"long name", strings.Repeat("a", 33), "", password, "username", nil},
		{"odd name", "a b c", "", password, "username", nil},
		{"name of another script", "аdmin", "", password, "username", nil},
		{"bad address", "carol", "carol", password, "email", nil},
		{"address with a name", "carol", "Carol <c@example.org>", password, "email", nil},
		{"long address", "carol", strings.Repeat("a", 250) + "@example.org", password, "email", nil},
		{"short password", "carol", "", "123456789", "password", nil},
		{"password of ten characters of two bytes", "carol", "", "ääääääääää", "", nil},
		{"long password", "carol2", "", strings.Repeat("x", 129), "password", nil},
		{"not UTF-8", "carol2", "", "\xff" + password, "password", nil},
		{"the name in the password", "carol2", "", "my name is Carol2", "password", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := a.Register(t.Context(), tt.user, tt.email, tt.password)
			var invalid *InvalidError
			switch {
			case tt.field != "":
				if !errors.As(err, &invalid) || invalid.Field != tt.field {
					t.Errorf("got %v, want %s to be invalid", err, tt.field)
				}
			case !errors.Is(err, tt.err):
				t.Errorf("got %v, want %v", err, tt.err)
			case err == nil && (u.Role != Viewer || u.Name != strings.ToLower(strings.TrimSpace(tt.user))):
				t.Errorf("got %+v", u)
			}
		})
	}
}

func TestLoginGivesAnAccessToken(t *testing.T) {
	a, c := single(t)
	registered(t, a, "eve")
	if _, err := a.SetRole(t.Context(), "eve", Analyst); err != nil {
		t.Fatal(err)
	}
	tokens := loggedIn(t, a, " EVE")
	got, header := verified(t, a, tokens.Access)
	want := claims{
		Issuer: Issuer, Audience: Issuer, Subject: "eve", Roles: []string{Viewer, Analyst}, ID: got.ID,
		Issued: c.Now().Unix(), Expires: c.Now().Add(15 * time.Minute).Unix(),
	}
	if got.Issuer != want.Issuer || got.Audience != want.Audience || got.Subject != want.Subject || !slices.Equal(got.Roles, want.Roles) ||
		got.Issued != want.Issued || got.Expires != want.Expires || len(got.ID) < 22 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if header.Algorithm != "EdDSA" || header.KeyID == "" || header.ExtraHeaders["typ"] != "at+jwt" {
		t.Errorf("header %+v", header)
	}
	other, _ := verified(t, a, loggedIn(t, a, "eve").Access)
	if other.ID == got.ID {
		t.Error("two tokens have one jti")
	}
}

// verified returns the claims of a token that the published keys verify.
func verified(t *testing.T, a *Accounts, token string) (claims, jose.Header) {
	t.Helper()
	raw, err := a.KeySet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	keys := set.Key(signed.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		t.Fatalf("key %q is not published", signed.Signatures[0].Header.KeyID)
	}
	if !keys[0].IsPublic() {
		t.Fatal("a private key is published")
	}
	payload, err := signed.Verify(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c, signed.Signatures[0].Header
}

func TestLockFor(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: 0, 4: 0, 5: 30 * time.Second, 6: time.Minute, 7: 2 * time.Minute, 11: 32 * time.Minute, 12: time.Hour, 13: time.Hour, 1000: time.Hour,
	} {
		if got := lockFor(failures); got != want {
			t.Errorf("lockFor(%d) = %s, want %s", failures, got, want)
		}
	}
}

// TestLockOut does the same to a name that exists and to one that does not: what a
// client sees must not tell which is which.
func TestLockOut(t *testing.T) {
	c := newClock()
	path := database(t)
	a := instance(t, path, c)
	registered(t, a, "eve")
	type answer struct{ text string }
	answers := map[string][]answer{}
	for _, name := range []string{"eve", "nobody"} {
		try := func(password string) {
			t.Helper()
			_, err := a.Login(t.Context(), name, password)
			answers[name] = append(answers[name], answer{err.Error()})
		}
		start := c.Now()
		for range 6 {
			try("a wrong password")
		}
		try(password) // the right one, but locked
		c.pass(29 * time.Second)
		try(password)
		c.pass(2 * time.Second)
		try("a wrong password")
		try("a wrong password")
		// Another instance, after a restart.
		a = instance(t, path, c)
		try("a wrong password")
		c.now = start
	}
	if !slices.Equal(answers["eve"], answers["nobody"]) {
		t.Errorf("the answers differ:\n%v\n%v", answers["eve"], answers["nobody"])
	}
	wrong := answer{ErrCredentials.Error()}
	locked := func(seconds string) answer { return answer{"too many failed logins: try again in " + seconds + " s"} }
	want := []answer{wrong, wrong, wrong, wrong, wrong, locked("30"), locked("30"), locked("1"), wrong, locked("60"), locked("60")}
	if !slices.Equal(answers["eve"], want) {
		t.Errorf("got  %v\nwant %v", answers["eve"], want)
	}
	c.pass(5 * time.Minute)
	loggedIn(t, a, "eve")
	if _, err := a.Login(t.Context(), "eve", "a wrong password"); !errors.Is(err, ErrCredentials) {
		t.Errorf("after a success: %v", err)
	}
	loggedIn(t, a, "eve")
}

func TestFailuresAreForgotten(t *testing.T) {
	a, c := single(t)
	registered(t, a, "eve")
	for range 4 {
		a.Login(t.Context(), "eve", "a wrong password")
	}
	c.pass(25 * time.Hour)
	for range 4 {
		if _, err := a.Login(t.Context(), "eve", "a wrong password"); !errors.Is(err, ErrCredentials) {
			t.Fatal(err)
		}
	}
	loggedIn(t, a, "eve")
	var n int
	if err := a.db.QueryRow(`SELECT COUNT(*) FROM failures`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d failures stay, %v", n, err)
	}
}

func TestImplausibleNamesAreNotStored(t *testing.T) {
	a, _ := single(t)
	for _, name := range []string{"", "a", strings.Repeat("x", 1000), "a b", "'; DROP TABLE users --"} {
		for range 6 {
			if _, err := a.Login(t.Context(), name, strings.Repeat("p", 10_000)); !errors.Is(err, ErrCredentials) {
				t.Errorf("name %.20q: %v", name, err)
			}
		}
	}
	var n int
	if err := a.db.QueryRow(`SELECT COUNT(*) FROM failures`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d names are stored, %v", n, err)
	}
}

func TestHashingIsBounded(t *testing.T) {
	a, err := New(Options{DB: open(t, database(t)), Hashing: 1})
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	var wg sync.WaitGroup
	for range 1 + waitingPerHash {
		wg.Go(func() {
			if err := a.hash(context.Background(), func() error { <-hold; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	for len(a.waiting) < cap(a.waiting) {
		runtime.Gosched() // until all of them wait
	}
	if _, err := a.Login(t.Context(), "eve", password); !errors.Is(err, ErrOverloaded) {
		t.Errorf("got %v, want ErrOverloaded", err)
	}
	close(hold)
	wg.Wait()
	if _, err := a.Login(t.Context(), "eve", password); !errors.Is(err, ErrCredentials) {
		t.Errorf("got %v, want ErrCredentials", err)
	}
}

func TestRefreshRotates(t *testing.T) {
	a, c := single(t)
	registered(t, a, "eve")
	token := loggedIn(t, a, "eve").Refresh
	for range 3 {
		c.pass(time.Hour)
		next, err := a.Refresh(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if next.Refresh == token {
			t.Fatal("the token is the same")
		}
		if got, _ := verified(t, a, next.Access); got.Subject != "eve" {
			t.Errorf("subject %q", got.Subject)
		}
		token = next.Refresh
	}
	c.pass(RefreshLifetime)
	if _, err := a.Refresh(t.Context(), token); !errors.Is(err, ErrRefresh) {
		t.Errorf("an expired token: %v", err)
	}
}

func TestRefreshEndsWithTheFamily(t *testing.T) {
	a, c := single(t)
	registered(t, a, "eve")
	token := loggedIn(t, a, "eve").Refresh
	for age := time.Duration(0); ; age += 10 * 24 * time.Hour {
		next, err := a.Refresh(t.Context(), token)
		if age >= FamilyLifetime {
			if !errors.Is(err, ErrRefresh) {
				t.Errorf("after %s: %v", age, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("after %s: %v", age, err)
		}
		token = next.Refresh
		c.pass(10 * 24 * time.Hour)
	}
}

func TestReuseRevokesTheFamily(t *testing.T) {
	a, c := single(t)
	registered(t, a, "eve")
	first := loggedIn(t, a, "eve").Refresh
	other := loggedIn(t, a, "eve").Refresh // another login is another family
	second, err := a.Refresh(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	c.pass(RepeatGrace)
	if _, err := a.Refresh(t.Context(), first); !errors.Is(err, ErrRefresh) {
		t.Errorf("reuse: %v", err)
	}
	if _, err := a.Refresh(t.Context(), second.Refresh); !errors.Is(err, ErrRefresh) {
		t.Errorf("after the reuse the family lives: %v", err)
	}
	if _, err := a.Refresh(t.Context(), other); err != nil {
		t.Errorf("the other family: %v", err)
	}
}

func TestRepeatedRefreshWithinTheGrace(t *testing.T) {
	c := newClock()
	path := database(t)
	a, b := instance(t, path, c), instance(t, path, c)
	registered(t, a, "eve")
	first := loggedIn(t, a, "eve").Refresh
	second, err := a.Refresh(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	c.pass(RepeatGrace - time.Second)
	again, err := b.Refresh(t.Context(), first)
	if err != nil || again.Refresh != second.Refresh {
		t.Fatalf("the same request again: %v, the same token: %t", err, again.Refresh == second.Refresh)
	}
	if _, err := a.Refresh(t.Context(), second.Refresh); err != nil {
		t.Fatal(err)
	}
	// Once the answer was used, the repetition is reuse, however soon.
	if _, err := a.Refresh(t.Context(), first); !errors.Is(err, ErrRefresh) {
		t.Errorf("got %v", err)
	}
}

// TestRefreshAtOnceOnTwoInstances has many refresh the same token at the same time:
// they all get the same successor, and the family lives.
func TestRefreshAtOnceOnTwoInstances(t *testing.T) {
	c := newClock()
	path := database(t)
	instances := []*Accounts{instance(t, path, c), instance(t, path, c)}
	registered(t, instances[0], "eve")
	first := loggedIn(t, instances[0], "eve").Refresh
	got := make([]string, 16)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			tokens, err := instances[i%2].Refresh(context.Background(), first)
			if err != nil {
				t.Error(err)
			}
			got[i] = tokens.Refresh
		})
	}
	wg.Wait()
	if slices.Sort(got); got[0] != got[len(got)-1] {
		t.Error("they got different tokens")
	}
	if _, err := instances[1].Refresh(context.Background(), got[0]); err != nil {
		t.Error(err)
	}
}

func TestRefreshWithWhatIsNoToken(t *testing.T) {
	a, _ := single(t)
	registered(t, a, "eve")
	access := loggedIn(t, a, "eve").Access
	for name, token := range map[string]string{"nothing": "", "an access token": access, "another": strings.Repeat("A", 43)} {
		if _, err := a.Refresh(t.Context(), token); !errors.Is(err, ErrRefresh) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLogout(t *testing.T) {
	a, _ := single(t)
	registered(t, a, "eve")
	first := loggedIn(t, a, "eve")
	second, err := a.Refresh(t.Context(), first.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	// Any token of the family will do, and any number of times.
	for _, token := range []string{first.Refresh, second.Refresh, "unknown", ""} {
		if err := a.Logout(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.Refresh(t.Context(), second.Refresh); !errors.Is(err, ErrRefresh) {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreNotStored(t *testing.T) {
	path := database(t)
	a := instance(t, path, newClock())
	registered(t, a, "eve")
	tokens := loggedIn(t, a, "eve")
	if _, err := a.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{"password": password, "refresh token": tokens.Refresh, "access token": tokens.Access} {
		if strings.Contains(string(stored), secret) {
			t.Errorf("the %s is in the database", name)
		}
	}
}

func TestEnsureAdministrator(t *testing.T) {
	c := newClock()
	path := database(t)
	var wg sync.WaitGroup
	made := make([]bool, 4)
	for i := range made {
		a := instance(t, path, c)
		wg.Go(func() {
			var err error
			if made[i], err = a.EnsureAdministrator(context.Background(), password); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(slices.DeleteFunc(made, func(b bool) bool { return !b })); n != 1 {
		t.Errorf("%d instances made the administrator", n)
	}
	a := instance(t, path, c)
	if again, err := a.EnsureAdministrator(t.Context(), "another password"); err != nil || again {
		t.Errorf("made again: %t, %v", again, err)
	}
	tokens := loggedIn(t, a, Administrator)
	if got := Granted(tokens.User.Role); !slices.Equal(got, []string{Viewer, Analyst, Admin}) {
		t.Errorf("roles %v", got)
	}
	if _, err := a.EnsureAdministrator(t.Context(), password); err != nil {
		t.Error(err)
	}
}

func TestSetRole(t *testing.T) {
	a, _ := single(t)
	if _, err := a.EnsureAdministrator(t.Context(), password); err != nil {
		t.Fatal(err)
	}
	registered(t, a, "eve")
	token := loggedIn(t, a, "eve").Refresh
	if _, err := a.SetRole(t.Context(), "eve", "root"); err == nil {
		t.Error("there is no role root")
	}
	if _, err := a.SetRole(t.Context(), "nobody", Analyst); !errors.Is(err, ErrUnknownUser) {
		t.Errorf("got %v", err)
	}
	if _, err := a.SetRole(t.Context(), Administrator, Viewer); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("got %v", err)
	}
	if u, err := a.SetRole(t.Context(), "EVE", Admin); err != nil || u.Role != Admin {
		t.Fatalf("got %+v, %v", u, err)
	}
	tokens, err := a.Refresh(t.Context(), token)
	if err != nil || tokens.User.Role != Admin {
		t.Fatalf("after more rights: %+v, %v", tokens.User, err)
	}
	if _, err := a.SetRole(t.Context(), Administrator, Viewer); err != nil {
		t.Errorf("there is another administrator: %v", err)
	}
	if _, err := a.SetRole(t.Context(), "eve", Viewer); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("got %v", err)
	}
	if _, err := a.SetRole(t.Context(), Administrator, Admin); err != nil {
		t.Fatal(err)
	}
	if _, err := a.SetRole(t.Context(), "eve", Analyst); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Refresh(t.Context(), tokens.Refresh); !errors.Is(err, ErrRefresh) {
		t.Errorf("after fewer rights the session lives: %v", err)
	}
}

func TestVerifyPassword(t *testing.T) {
	hashed, err := hashPassword(password, usualCost)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hashed, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("got %s", hashed)
	}
	if ok, err := verifyPassword(hashed, password); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := verifyPassword(hashed, password+"x"); ok || err != nil {
		t.Error(ok, err)
	}
	for _, damaged := range []string{
		"", "plain", "$argon2i$v=19$m=19456,t=2,p=1$AAAA$AAAA", strings.Replace(hashed, "v=19", "v=18", 1),
		strings.Replace(hashed, "m=19456", "m=99999999", 1), strings.Replace(hashed, "t=2", "t=0", 1), strings.Replace(hashed, "p=1", "p=0", 1),
		hashed[:len(hashed)-43], hashed + "!",
	} {
		if ok, err := verifyPassword(damaged, password); ok || !errors.Is(err, errHash) {
			t.Errorf("verifyPassword(%q) = %t, %v", damaged, ok, err)
		}
	}
}

// FuzzVerifyPassword must survive any stored text.
func FuzzVerifyPassword(f *testing.F) {
	f.Add("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=999999999,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, hashed string) {
		if ok, _ := verifyPassword(hashed, "x"); ok && len(hashed) < 60 {
			t.Errorf("verifyPassword(%q) = true", hashed)
		}
	})
}

func BenchmarkLogin(b *testing.B) {
	hashed, err := hashPassword(password, usualCost)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if ok, err := verifyPassword(hashed, password); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

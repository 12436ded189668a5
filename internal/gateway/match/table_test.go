package match

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// patternsOf reads "[METHOD ][HOST]/path" keys.
func patternsOf(keys ...string) []Pattern {
	out := make([]Pattern, len(keys))
	for i, key := range keys {
		rest := key
		method, after, ok := strings.Cut(key, " ")
		if ok {
			rest = after
		} else {
			method = ""
		}
		slash := strings.IndexByte(rest, '/')
		out[i] = Pattern{Key: key, Method: method, Host: rest[:slash], Path: rest[slash:]}
	}
	return out
}

func check(keys ...string) error {
	_, err := New(patternsOf(keys...))
	return err
}

// keyed is a table that is asked for keys.
type keyed struct {
	*Table
	keys []string
}

func (k *keyed) find(method, host, path string, vars Values) (string, Values) {
	i, vars := k.Find(method, host, path, vars)
	if i < 0 {
		return "", vars
	}
	return k.keys[i], vars
}

func tableOf(tb testing.TB, keys ...string) *keyed {
	tb.Helper()
	m, err := New(patternsOf(keys...))
	if err != nil {
		tb.Fatal(err)
	}
	return &keyed{m, keys}
}

func TestMatch(t *testing.T) {
	keys := []string{
		"/", "/adminer/", "GET /api/flows", "POST /api/flows/import", "GET /api/flows/{hs}", "GET /api/flows/{hs}/years/{year}",
		"GET /api/flows/summary", "HEAD /api/flows/summary", "/api/files/{path...}", "GET /exact/{$}", "GET /only", "PUT /only",
		"www.example.com/", "*.example.com/", "GET api.example.com/v1/{id}", "/api/%7Btilde%7D", "GET /x/{a}/c", "POST /x/b/{d}",
	}
	tests := []struct{ name, method, host, path, want, vars string }{
		{"root", "GET", "h", "/", "/", ""},
		{"falls to root", "GET", "h", "/nothing/here", "/", ""},
		{"path before method", "GET", "h", "/adminer/", "/adminer/", ""},
		{"subtree", "POST", "h", "/adminer/a/b", "/adminer/", ""},
		{"no redirect to the subtree", "GET", "h", "/adminer", "/", ""},
		{"literal before wildcard", "GET", "h", "/api/flows/summary", "GET /api/flows/summary", ""},
		{"head before get", "HEAD", "h", "/api/flows/summary", "HEAD /api/flows/summary", ""},
		{"get takes head", "HEAD", "h", "/api/flows/01", "GET /api/flows/{hs}", "hs=01"},
		{"other method falls through", "GET", "h", "/api/flows/import", "GET /api/flows/{hs}", "hs=import"},
		{"method", "POST", "h", "/api/flows/import", "POST /api/flows/import", ""},
		{"two values", "GET", "h", "/api/flows/01/years/2023", "GET /api/flows/{hs}/years/{year}", "hs=01 year=2023"},
		{"back from a dead end", "GET", "h", "/api/flows/01/years", "/", ""},
		{"encoded slash is in the segment", "GET", "h", "/api/flows/a%2Fb", "GET /api/flows/{hs}", "hs=a/b"},
		{"encoded literal", "GET", "h", "/api/%66lows", "GET /api/flows", ""},
		{"literal braces", "GET", "h", "/api/%7Btilde%7D", "/api/%7Btilde%7D", ""},
		{"rest", "GET", "h", "/api/files/a/b%20c", "/api/files/{path...}", "path=a/b c"},
		{"empty rest", "GET", "h", "/api/files/", "/api/files/{path...}", "path="},
		{"rest needs the slash", "GET", "h", "/api/files", "/", ""},
		{"end", "GET", "h", "/exact/", "GET /exact/{$}", ""},
		{"end is the end", "GET", "h", "/exact/a", "/", ""},
		{"wildcard is not empty", "GET", "h", "/api/flows/", "/", ""},
		{"host", "GET", "www.example.com", "/only", "www.example.com/", ""},
		{"host with port and dot", "GET", "WWW.Example.com.:3005", "/", "www.example.com/", ""},
		{"wildcard host", "GET", "shop.example.com", "/", "*.example.com/", ""},
		{"one label only", "GET", "a.b.example.com", "/only", "GET /only", ""},
		{"not the bare domain", "GET", "example.com", "/only", "GET /only", ""},
		{"exact host, then the wildcard", "GET", "api.example.com", "/v1/7", "GET api.example.com/v1/{id}", "id=7"},
		{"falls from host to wildcard", "POST", "api.example.com", "/v1/7", "*.example.com/", ""},
		{"ambiguous by path, told apart by method: get", "GET", "h", "/x/b/c", "GET /x/{a}/c", "a=b"},
		{"ambiguous by path, told apart by method: post", "POST", "h", "/x/b/c", "POST /x/b/{d}", "d=c"},
	}
	m := tableOf(t, keys...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key, vars := m.find(tt.method, tt.host, tt.path, nil)
			if key != tt.want {
				t.Fatalf("matched %q, want %q", key, tt.want)
			}
			var got []string
			for _, v := range vars {
				got = append(got, v.Name+"="+v.Value)
			}
			if strings.Join(got, " ") != tt.vars {
				t.Errorf("values %q, want %q", got, tt.vars)
			}
		})
	}
}

func TestMatchNothing(t *testing.T) {
	m := tableOf(t, "GET /a", "POST /a", "PUT /b/{x}", "DELETE h.example/a")
	tests := []struct{ name, method, host, path, allow string }{
		{"no path", "GET", "h", "/c", ""},
		{"no method", "PUT", "h", "/a", "GET HEAD POST"},
		{"of a wildcard", "GET", "h", "/b/1", "PUT"},
		{"of the host too", "PATCH", "h.example", "/a", "DELETE GET HEAD POST"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if key, _ := m.find(tt.method, tt.host, tt.path, nil); key != "" {
				t.Fatalf("matched %q", key)
			}
			if got := strings.Join(m.Allowed(tt.host, tt.path), " "); got != tt.allow {
				t.Errorf("allows %q, want %q", got, tt.allow)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name string
		keys []string
		want string // in the error; "" for none
	}{
		{"method never conflicts", []string{"GET /", "/adminer/"}, ""},
		{"duplicate", []string{"GET /a/{x}", "GET /a/{y}"}, "matches the same requests"},
		{"duplicate after decoding", []string{"/a%41", "/aA"}, "matches the same requests"},
		{"same path, other method", []string{"GET /a", "/a", "POST /a"}, ""},
		{"crosswise", []string{"/a/{x}", "/{y}/b"}, "conflicts"},
		{"crosswise, the other order", []string{"/{y}/b", "/a/{x}"}, "conflicts"},
		{"crosswise, methods apart", []string{"GET /a/{x}", "POST /{y}/b"}, ""},
		{"crosswise, get takes head", []string{"GET /a/{x}", "HEAD /{y}/b"}, "conflicts"},
		{"crosswise, one for any", []string{"GET /a/{x}", "/{y}/b"}, "conflicts"},
		{"crosswise with a subtree", []string{"/a/", "/{y}/b"}, "conflicts"},
		{"crosswise with a subtree, the other order", []string{"/{y}/b", "/a/"}, "conflicts"},
		{"crosswise, deep", []string{"/a/b/c/{x}/e", "/a/{y}/c/d/e"}, "conflicts"},
		{"crosswise with rest", []string{"/{x}/a/", "/b/{r...}"}, "conflicts"},
		{"rest inside", []string{"/{x}/", "/b/{r...}"}, ""},
		{"different lengths", []string{"/a/{x}", "/{y}/b/c"}, ""},
		{"end and wildcard", []string{"/a/{$}", "/{x}/"}, ""},
		{"hosts apart", []string{"h/a/{x}", "i/{y}/b"}, ""},
		{"host and none", []string{"h/a/{x}", "/{y}/b"}, ""},
		{"twice", []string{"/a/{x}/{x}"}, "uses {x} twice"},
		{"no slash", []string{"/a//b"}, "empty segment"},
		{"dots", []string{"/a/../b"}, "never matches"},
		{"part of a segment", []string{"/a/b{x}"}, "not a whole segment"},
		{"rest before the end", []string{"/a/{x...}/b"}, "before the end"},
		{"dollar before the end", []string{"/a/{$}/b"}, "before the end"},
		{"bad name", []string{"/a/{1x}"}, "bad wildcard name"},
		{"no name", []string{"/a/{}"}, "bad wildcard name"},
		{"bad percent", []string{"/a/%zz"}, "bad percent"},
		{"host with port", []string{"h:80/"}, "port"},
		{"star inside", []string{"a.*.example/"}, "bad host"},
		{"star alone", []string{"*./"}, "bad host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := check(tt.keys...)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestCheckTellsAll(t *testing.T) {
	err := check("/a//b", "/c", "/c", "/d/{")
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("error %v, want three lines", err)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	m := tableOf(t, "/", "GET /api/flows/{hs}/years/{year}", "GET api.example.com/v1/{id}", "*.example.com/x/{rest...}")
	var buf [8]Value
	n := testing.AllocsPerRun(100, func() {
		m.find("GET", "localhost:3005", "/api/flows/010121/years/2023", buf[:0])
		m.find("GET", "api.example.com:80", "/v1/17", buf[:0])
		m.find("GET", "shop.example.com", "/x/y/z", buf[:0])
		if !SafePath("/api/flows/010121/years/2023") {
			t.Error("not safe")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// randomKey makes patterns of few words, so that they overlap.
func randomKey(rnd *rand.Rand) string {
	var b strings.Builder
	if rnd.IntN(3) == 0 {
		b.WriteString([]string{"GET ", "POST ", "HEAD "}[rnd.IntN(3)])
	}
	if rnd.IntN(5) == 0 {
		b.WriteString("h.example")
	}
	n := rnd.IntN(4)
	for i := range n {
		b.WriteByte('/')
		switch rnd.IntN(4) {
		case 0:
			fmt.Fprintf(&b, "{v%d}", i)
		default:
			b.WriteString([]string{"a", "b", "c"}[rnd.IntN(3)])
		}
	}
	switch rnd.IntN(4) {
	case 0:
		b.WriteByte('/')
	case 1:
		b.WriteString("/{r...}")
	case 2:
		b.WriteString("/{$}")
	default:
		if n == 0 {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// TestMatchAgreesWithServeMux compares with net/http on random sets of patterns
// that both accept.
func TestMatchAgreesWithServeMux(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	compared, refusedBoth := 0, 0
	for range 3000 {
		mux := http.NewServeMux()
		var keys []string
		for range 1 + rnd.IntN(6) {
			key := randomKey(rnd)
			theirs := func() (err any) {
				defer func() { err = recover() }()
				mux.HandleFunc(key, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Key", key) })
				return nil
			}()
			ours := check(append(slices.Clone(keys), key)...)
			if theirs == nil && ours != nil {
				t.Fatalf("net/http takes %q besides %q, we say %v", key, keys, ours)
			}
			if theirs != nil {
				if ours != nil {
					refusedBoth++
				}
				continue
			}
			keys = append(keys, key)
		}
		m := tableOf(t, keys...)
		for range 20 {
			method := []string{"GET", "POST", "HEAD", "PUT"}[rnd.IntN(4)]
			host := []string{"h.example", "other"}[rnd.IntN(2)]
			var path strings.Builder
			for range rnd.IntN(5) {
				path.WriteString([]string{"/a", "/b", "/c", "/d"}[rnd.IntN(4)])
			}
			if path.Len() == 0 || rnd.IntN(3) == 0 {
				path.WriteByte('/')
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, &http.Request{Method: method, Host: host, URL: &url.URL{Path: path.String()}, RequestURI: path.String()})
			if w.Code == http.StatusMovedPermanently || w.Code == http.StatusTemporaryRedirect || w.Code == http.StatusPermanentRedirect {
				continue // we redirect nothing
			}
			compared++
			want := w.Header().Get("Key")
			got, _ := m.find(method, host, path.String(), nil)
			if got != want {
				t.Fatalf("routes %q: %s %s%s goes to %q, net/http says %q", keys, method, host, path.String(), got, want)
			}
			if w.Code == http.StatusMethodNotAllowed {
				// net/http counts paths in that it would redirect to.
				allowed := append(m.Allowed(host, path.String()), m.Allowed(host, path.String()+"/")...)
				for allow := range strings.SplitSeq(w.Header().Get("Allow"), ", ") {
					if !slices.Contains(allowed, allow) {
						t.Fatalf("routes %q: %s not in Allow for %s", keys, allow, path.String())
					}
				}
			}
		}
	}
	if compared < 10000 || refusedBoth < 100 {
		t.Errorf("compared %d requests, both refused %d patterns: too few to mean anything", compared, refusedBoth)
	}
}

// naiveMatch is the specification: of all patterns that match, the one that no
// other is more specific than.
func naiveMatch(patterns []Pattern, method, path string) int {
	best := -1
	var bestRank []int
	for i, p := range patterns {
		segments, err := parsePath(p.Path)
		if err != nil || !naiveMethod(p.Method, method) || !naivePath(segments, path) {
			continue
		}
		var rank []int
		for _, s := range segments {
			rank = append(rank, map[segmentKind]int{literal: 0, end: 0, single: 1, rest: 2}[s.kind])
		}
		rank = append(rank, map[bool]int{true: 0, false: 1}[p.Method == method], map[bool]int{true: 1, false: 0}[p.Method == ""])
		if best < 0 || slices.Compare(rank, bestRank) < 0 {
			best, bestRank = i, rank
		}
	}
	return best
}

func naiveMethod(pattern, method string) bool {
	return pattern == "" || pattern == method || pattern == "GET" && method == "HEAD"
}

func naivePath(segments []segment, path string) bool {
	parts := strings.Split(path[1:], "/")
	for i, s := range segments {
		switch s.kind {
		case rest:
			return i < len(parts)
		case end:
			return i == len(parts)-1 && parts[i] == ""
		case literal:
			if i >= len(parts) || Unescape(parts[i]) != s.text {
				return false
			}
		case single:
			if i >= len(parts) || parts[i] == "" {
				return false
			}
		}
	}
	return len(parts) == len(segments)
}

func FuzzMatch(f *testing.F) {
	f.Add("GET /a/{x}\n/a/b\n/", "GET", "/a/b")
	f.Add("/{x}/b\nPOST /a/{y...}\n/a/{$}", "HEAD", "/a/")
	f.Add("/a%2fb/\n/{x}", "GET", "/a%2Fb/c")
	f.Fuzz(func(t *testing.T, patterns, method, path string) {
		if !SafePath(path) || strings.Contains(method, " ") {
			return
		}
		if u, err := url.ParseRequestURI(path); err != nil || u.EscapedPath() != path {
			return
		}
		var keys []string
		for key := range strings.SplitSeq(patterns, "\n") {
			rest := key
			if _, after, ok := strings.Cut(key, " "); ok {
				rest = after
			}
			if !strings.HasPrefix(rest, "/") {
				continue
			}
			if check(append(slices.Clone(keys), key)...) == nil {
				keys = append(keys, key)
			}
		}
		table := patternsOf(keys...)
		m, err := New(table)
		if err != nil {
			t.Fatal(err)
		}
		got, vars := m.Find(method, "h", path, nil)
		want := naiveMatch(table, method, path)
		if got != want {
			t.Fatalf("routes %q: %s %s goes to %d, want %d", keys, method, path, got, want)
		}
		for _, v := range vars {
			if v.Name == "" {
				t.Errorf("a value without a name: %q", v.Value)
			}
		}
	})
}

func TestSafePath(t *testing.T) {
	good := []string{
		"/", "/a", "/a/", "/a/b.c", "/.well-known/x", "/a/...", "/..a", "/a..", "/a%20b", "/a;v=1/b", "/%C3%BC", "/100%25", "/a/.b", "/%25zz",
	}
	bad := []string{
		"", "a", "*", "//", "//a", "/a//b", "/a//", "/.", "/..", "/a/./b", "/a/../b", "/a/..", "/%2e%2e/a", "/a/%2E./b", "/a/.%2e",
		"/a/..%2fb", "/a/..%2Fb", "/a/%2e%2e%2fb", "/a/b%2f..%2fc", "/a/..\\b", "/a/..%5cb", "/a/..;/b", "/a/..;x=1/b", "/a/.;/b", "/a/%2e%2e;/b",
		"/a/%252e%252e/b", "/a/%25252e%25252e/b", "/a/..%252fb", "/a%00b", "/a%2500b", "/a%2Fb", "/a%5cb", "/a%252fb", "/a\\b", "/a%0d%0ab", "/a%09", "/a%7f", "/a\x01b", "/a\x7fb",
		"/%00;%", "/a/%252e%252e%252fb%25", "/a/..%252f%2525zz", "/a/%2e%2e%2fb%zz", // some decode what they can
	}
	for _, p := range good {
		if !SafePath(p) {
			t.Errorf("%q is refused", p)
		}
	}
	for _, p := range bad {
		if SafePath(p) {
			t.Errorf("%q is taken", p)
		}
	}
}

var escape = regexp.MustCompile("%[0-9A-Fa-f]{2}")

// FuzzSafePath takes a path that is found safe through every reading a service
// might have of it: none may leave the first segment.
func FuzzSafePath(f *testing.F) {
	for _, s := range []string{"/a/b", "/public/..%2fadmin", "/public/%252e%252e%252fadmin", "/a/..;/b", "/a\\..\\b", "/a/%2e%2e%2f%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !SafePath(path) {
			return
		}
		reading := path
		for range 3 {
			for _, slashed := range []string{reading, strings.ReplaceAll(reading, `\`, "/")} {
				for part := range strings.SplitSeq(slashed, "/") {
					part, _, _ = strings.Cut(part, ";")
					if part == "." || part == ".." {
						t.Fatalf("%q can be read as %q", path, slashed)
					}
				}
			}
			reading = escape.ReplaceAllStringFunc(reading, func(e string) string {
				b, _ := hex.DecodeString(e[1:])
				return string(b)
			})
		}
	})
}

// manyKeys are 5,000 routes like those of a large system.
func manyKeys() []string {
	out := make([]string, 0, 5000)
	for i := range 1000 {
		base := fmt.Sprintf("/api/service%d/resource%d", i%50, i)
		out = append(out, "GET "+base, "POST "+base, "GET "+base+"/{id}", "PUT "+base+"/{id}", "GET "+base+"/{id}/parts/{part}")
	}
	return out
}

func TestManyRoutesBuildFast(t *testing.T) {
	patterns := patternsOf(manyKeys()...)
	best := time.Hour
	for range 10 {
		start := time.Now()
		if _, err := New(patterns); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	t.Logf("5,000 routes in %v", best)
	if best > time.Second { // a hundred times what it takes, for a busy machine with -race
		t.Errorf("building 5,000 routes took %v", best)
	}
}

func BenchmarkMatch(b *testing.B) {
	keys := manyKeys()
	m := tableOf(b, keys...)
	mux := http.NewServeMux()
	for _, k := range keys {
		mux.HandleFunc(k, func(http.ResponseWriter, *http.Request) {})
	}
	path := "/api/service7/resource507/17/parts/3"
	b.Run("table", func(b *testing.B) {
		var buf [8]Value
		b.ReportAllocs()
		for b.Loop() {
			if i, _ := m.Find("GET", "localhost:3005", path, buf[:0]); i < 0 {
				b.Fatal("no match")
			}
		}
	})
	b.Run("servemux", func(b *testing.B) {
		r := httptest.NewRequest("GET", path, nil)
		b.ReportAllocs()
		for b.Loop() {
			mux.Handler(r)
		}
	})
}

// BenchmarkMiss is what a path costs that no route has: a scanner asks for many.
func BenchmarkMiss(b *testing.B) {
	m := tableOf(b, manyKeys()...)
	b.ReportAllocs()
	for b.Loop() {
		if len(m.Allowed("localhost:3005", "/wp-login.php")) > 0 {
			b.Fatal("a route")
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	keys := manyKeys()
	patterns := patternsOf(keys...)
	b.Run("table", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := New(patterns); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("servemux", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mux := http.NewServeMux()
			for _, key := range keys {
				mux.HandleFunc(key, func(http.ResponseWriter, *http.Request) {})
			}
		}
	})
}

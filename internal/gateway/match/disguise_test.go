package match

import "testing"

func TestWithoutParameters(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "/a/b/": "/a/b/", "/a%3/%2": "/a%3/%2",
		"/a;x": "/a", "/a;x/b;y": "/a/b", "/a;x/": "/a/", "/;/a": "/a", "/a/;x": "/a/", "/;": "/", "/;/": "/",
		"/a%3bx": "/a", "/a%3Bx/b": "/a/b", "/a%253bx": "/a", "/a%25253Bx": "/a", "/a%25": "/a%25",
	} {
		if got := WithoutParameters(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func FuzzWithoutParameters(f *testing.F) {
	for _, s := range []string{"/a;b/c", "/;/a", "/%253b", "/a%3bb/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !SafePath(path) {
			return
		}
		plain := WithoutParameters(path)
		if !SafePath(plain) || WithoutParameters(plain) != plain {
			t.Errorf("%q gives %q", path, plain)
		}
	})
}

func TestSafeQuery(t *testing.T) {
	for query, want := range map[string]bool{"": true, "a=b&c": true, "a b": false, "a#": false, "\x7f": false, "a\r\n": false, "é": true} {
		if SafeQuery(query) != want {
			t.Errorf("%q: %v", query, !want)
		}
	}
}

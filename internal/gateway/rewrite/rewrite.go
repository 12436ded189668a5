// Package rewrite makes the paths that services see and the addresses that clients
// are sent to, out of templates and the values of a request's path.
//
// A template is a text with {name}s in it. Values are escaped for the place where
// they stand, and what comes out as a path is a [match.SafePath], as everything is
// that a client may ask for: no value leads to another host, out of a folder or
// into another header. It does not read requests, and keeps no state.
package rewrite

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"fairlead/internal/gateway/match"
)

// ErrUnsafe is returned for values that would make a path which means different
// things to different programs.
var ErrUnsafe = errors.New("the values of the path make no clean path")

// template is a text with the places of values.
type template []part

// part is a literal text or, with name, the value of a wildcard.
type part struct{ text, name string }

func parse(s string, known func(name string) bool) (template, error) {
	var t template
	for rest := s; rest != ""; {
		text, after, open := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, errors.New("has a } without {")
		}
		if text != "" {
			t = append(t, part{text: text})
		}
		if !open {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		switch {
		case !closed || name == "":
			return nil, errors.New("has a { without {name}")
		case !known(name):
			return nil, fmt.Errorf("has {%s}, which the route's path has not", name)
		}
		t = append(t, part{name: name})
		rest = tail
	}
	return t, nil
}

func (t template) fill(values match.Values, escape func(string) string) string {
	if len(t) == 1 && t[0].name == "" {
		return t[0].text
	}
	var b strings.Builder
	for _, p := range t {
		if p.name == "" {
			b.WriteString(p.text)
			continue
		}
		v, _ := values.Lookup(p.name)
		b.WriteString(escape(v))
	}
	return b.String()
}

// segments escapes a value of a path. Slashes stay: those of a {name...} part the
// value as they did in the client's path, and no other wildcard's value holds one.
func segments(v string) string {
	if strings.IndexByte(v, '/') < 0 {
		return url.PathEscape(v)
	}
	parts := strings.Split(v, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// Path is a template of a path. It is immutable.
type Path struct{ t template }

// ParsePath reads a path with a leading slash, escaped as in a URL, in which
// {name} stands for a value; known reports which there are.
func ParsePath(s string, known func(name string) bool) (*Path, error) {
	t, err := parse(s, known)
	if err != nil {
		return nil, fmt.Errorf("read path %q: %w", s, err)
	}
	if err := checkPath(t); err != nil {
		return nil, fmt.Errorf("read path %q: %w", s, err)
	}
	return &Path{t}, nil
}

// checkPath looks at what a path is with a letter for each value.
func checkPath(t template) error {
	sample := t.fill(nil, func(string) string { return "x" })
	if !strings.HasPrefix(sample, "/") || len(t) == 0 || !strings.HasPrefix(t[0].text, "/") {
		return errors.New("must begin with a slash")
	}
	u, err := url.ParseRequestURI(sample)
	if err != nil || u.EscapedPath() != sample || strings.ContainsAny(sample, "?#") {
		return errors.New("must be a path as it stands in a URL, without a query")
	}
	if !match.SafePath(sample) {
		return errors.New("must not hold empty or dot segments, or slashes and control characters in disguise")
	}
	return nil
}

// Fill returns the escaped path with the values of a request, or [ErrUnsafe].
func (p *Path) Fill(values match.Values) (string, error) {
	s := p.t.fill(values, segments)
	if !match.SafePath(s) {
		return "", ErrUnsafe
	}
	return s, nil
}

// Prefix returns how many segments a route's path has before its first wildcard or
// final slash: those that Strip takes away.
func Prefix(pattern string) int {
	n := 0
	for segment := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		if segment == "" || segment[0] == '{' {
			break
		}
		n++
	}
	return n
}

// Strip cuts an escaped path behind its first n segments. The rest begins with a
// slash; it is a [match.SafePath] if the path is.
func Strip(path string, n int) (prefix, rest string) {
	at := 0
	for range n {
		i := strings.IndexByte(path[at+1:], '/')
		if i < 0 {
			return path, "/"
		}
		at += 1 + i
	}
	return path[:at], path[at:]
}

// Redirect is a template of the address that clients are sent to. It is immutable.
type Redirect struct {
	origin   string // scheme and host, "" for the client's own
	path     template
	query    template
	asked    bool // the template has a query
	fragment template
}

// ParseRedirect reads a path with a leading slash, or a URL of http or https. Its
// path, query and fragment may hold {name}s; scheme and host may not.
func ParseRedirect(s string, known func(name string) bool) (*Redirect, error) {
	r, err := parseRedirect(s, known)
	if err != nil {
		return nil, fmt.Errorf("read redirect %q: %w", s, err)
	}
	return r, nil
}

func parseRedirect(s string, known func(name string) bool) (*Redirect, error) {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return nil, errors.New("must be printable ASCII, as a URL is")
		}
	}
	r := &Redirect{}
	rest := s
	if !strings.HasPrefix(s, "/") {
		scheme, after, ok := strings.Cut(s, "://")
		if !ok || scheme != "http" && scheme != "https" {
			return nil, errors.New("must begin with a slash, http:// or https://")
		}
		host := after
		rest = "/"
		if i := strings.IndexAny(after, "/?#"); i >= 0 {
			host, rest = after[:i], after[i:]
			if rest[0] != '/' {
				rest = "/" + rest
			}
		}
		if host == "" || !match.SafeHost(host) {
			return nil, errors.New("must name a host, without user and {name}s")
		}
		r.origin = scheme + "://" + host
		if u, err := url.Parse(r.origin); err != nil || u.Host != host {
			return nil, fmt.Errorf("must name a host, not %q", host)
		}
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	rest, query, asked := strings.Cut(rest, "?")
	r.asked = asked
	var err error
	if r.path, err = parse(rest, known); err == nil {
		err = checkPath(r.path)
	}
	if err == nil {
		r.query, err = parse(query, known)
	}
	if err == nil {
		r.fragment, err = parse(fragment, known)
	}
	if err == nil {
		letter := func(string) string { return "x" } // completes no escape
		if _, e := url.Parse("/#" + r.fragment.fill(nil, letter)); e != nil {
			err = errors.New("must have a fragment that is escaped as in a URL")
		}
	}
	return r, err
}

// Location returns the value of the Location header for a request: with its own
// query, as it came, if the template has none. It holds nothing but printable
// ASCII. The error is [ErrUnsafe].
func (r *Redirect) Location(values match.Values, rawQuery string) (string, error) {
	path := r.path.fill(values, segments)
	if !match.SafePath(path) {
		return "", ErrUnsafe
	}
	query := printable(rawQuery)
	if r.asked {
		query = r.query.fill(values, url.QueryEscape)
	}
	s := r.origin + path
	if query != "" {
		s += "?" + query
	}
	if len(r.fragment) > 0 {
		s += "#" + r.fragment.fill(values, url.PathEscape)
	}
	return s, nil
}

// printable escapes what must not stand in a URL.
func printable(s string) string {
	const digits = "0123456789ABCDEF"
	var b []byte
	for i := range len(s) {
		c := s[i]
		bad := c <= ' ' || c >= 0x7f || c == '#' || c == '"' || c == '<' || c == '>'
		if bad && b == nil {
			b = append(make([]byte, 0, len(s)+16), s[:i]...)
		}
		switch {
		case bad:
			b = append(b, '%', digits[c>>4], digits[c&15])
		case b != nil:
			b = append(b, c)
		}
	}
	if b == nil {
		return s
	}
	return string(b)
}

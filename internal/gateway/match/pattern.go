package match

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// segment is one part of a pattern between slashes.
type segment struct {
	kind segmentKind
	text string // a literal, decoded; the name of a wildcard, "" for a plain trailing slash
}

type segmentKind uint8

const (
	literal segmentKind = iota
	single              // {name}
	rest                // {name...} or a trailing slash: whatever follows, also nothing
	end                 // {$}: the path ends with this slash
)

// parsePath reads the path of a pattern in net/http's syntax. Unlike net/http it
// refuses what can never match: empty and dot segments.
func parsePath(path string) ([]segment, error) {
	return appendSegments(make([]segment, 0, strings.Count(path, "/")), path)
}

// appendSegments is parsePath for who has a slice already.
func appendSegments(out []segment, path string) ([]segment, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, errors.New("must begin with a slash")
	}
	for left := path[1:]; ; {
		text, tail, more := strings.Cut(left, "/")
		left = tail
		s, err := parseSegment(text, more)
		if err != nil {
			return nil, err
		}
		if s.kind != literal && s.text != "" && slices.ContainsFunc(out, func(o segment) bool { return o.kind != literal && o.text == s.text }) {
			return nil, fmt.Errorf("uses {%s} twice", s.text)
		}
		out = append(out, s)
		if !more {
			return out, nil
		}
	}
}

func parseSegment(text string, more bool) (segment, error) {
	switch {
	case text == "" && more:
		return segment{}, errors.New("has an empty segment, which never matches")
	case text == "":
		return segment{kind: rest}, nil
	case !strings.ContainsAny(text, "{}"):
		plain, err := url.PathUnescape(text)
		if err != nil {
			return segment{}, fmt.Errorf("has a bad percent sign in %q", text)
		}
		if !safeSegment(text) {
			return segment{}, fmt.Errorf("has the segment %q, which never matches", text)
		}
		return segment{kind: literal, text: plain}, nil
	case text[0] != '{' || text[len(text)-1] != '}':
		return segment{}, fmt.Errorf("has a wildcard that is not a whole segment: %q", text)
	}
	name := text[1 : len(text)-1]
	if name == "$" {
		if more {
			return segment{}, errors.New("has {$} before the end")
		}
		return segment{kind: end}, nil
	}
	name, multi := strings.CutSuffix(name, "...")
	if multi && more {
		return segment{}, fmt.Errorf("has {%s...} before the end", name)
	}
	if !identifier(name) {
		return segment{}, fmt.Errorf("has a bad wildcard name %q", name)
	}
	if multi {
		return segment{kind: rest, text: name}, nil
	}
	return segment{kind: single, text: name}, nil
}

func identifier(s string) bool {
	for i, c := range s {
		if !unicode.IsLetter(c) && c != '_' && (i == 0 || !unicode.IsDigit(c)) {
			return false
		}
	}
	return s != ""
}

// Names returns the names of the wildcards in the path of a pattern.
func Names(path string) map[string]bool {
	names := make(map[string]bool)
	for rest := path; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return names
		}
		name, tail, ok := strings.Cut(after, "}")
		if !ok {
			return names
		}
		if name = strings.TrimSuffix(name, "..."); name != "" && name != "$" {
			names[name] = true
		}
		rest = tail
	}
}

// checkHost refuses hosts that could never match. "*." may stand for one label.
func checkHost(host string) error {
	name := strings.TrimPrefix(host, "*.")
	if name == "" || strings.ContainsAny(name, "*/{}?#@ ") || strings.HasPrefix(name, ".") {
		return fmt.Errorf("has the bad host %q", host)
	}
	if Host(name) != strings.ToLower(name) {
		return fmt.Errorf("has the host %q with a port or a final dot: give the name alone", host)
	}
	return nil
}

// Host returns the name in a Host header as patterns know it: without
// port and final dot, in small letters.
func Host(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		if c := host[i]; 'A' <= c && c <= 'Z' || c >= 0x80 {
			return strings.ToLower(host)
		}
	}
	return host
}

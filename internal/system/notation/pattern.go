package notation

import (
	"net/url"
	"slices"
	"strings"

	"fairlead/internal/system/wording"
)

// Pattern is what a route's key says, split for comparing.
type Pattern struct {
	Method   string // "" for any
	Host     string // in lower case, maybe of the form *.NAME; "" for any
	Path     string // as written
	segments []segment
}

// segment is one part of a path between slashes.
type segment struct {
	literal string // decoded; "" is what follows a last slash
	name    string // of a path value
	wild    bool   // any one segment that is not empty
	multi   bool   // one or more segments, an empty one too; always the last
}

// Methods are those that a route may name. GET includes HEAD.
var Methods = []string{
	"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
	"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH",
}

// PatternError is why a key is no route.
type PatternError struct{ Problem, Advice string }

// ParsePattern reads "[METHOD ][HOST]/path".
func ParsePattern(key string) (p Pattern, bad *PatternError) {
	rest := key
	if method, after, ok := strings.Cut(key, " "); ok && !strings.Contains(method, "/") {
		p.Method, rest = method, strings.TrimLeft(after, " ")
		if !slices.Contains(Methods, method) {
			return p, &PatternError{wording.Quote(method) + " is not a method", wording.Suggest(method, Methods[:7], "")}
		}
	}
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return p, &PatternError{"it has no path", "write [METHOD ][HOST]/path, as in GET /api/flows/{id}"}
	}
	if slices.Contains(Methods, rest[:slash]) {
		return p, &PatternError{wording.Quote(rest[:slash]) + " is a method, and stands where a host would", "write a space after it: " + rest[:slash] + " " + rest[slash:]}
	}
	p.Host, p.Path = strings.ToLower(rest[:slash]), rest[slash:]
	if host := strings.TrimPrefix(p.Host, "*."); p.Host != "" && (!IsHostName(host) || host != p.Host && !strings.Contains(host, ".")) {
		return p, &PatternError{wording.Quote(rest[:slash]) + " is not a host", "write a name without port, as in shop.example.com or *.example.com"}
	}
	p.segments, bad = parseSegments(p.Path)
	return p, bad
}

func parseSegments(path string) ([]segment, *PatternError) {
	if i := strings.IndexFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '?' || r == '#' }); i >= 0 {
		return nil, &PatternError{"the path holds " + wording.Quote(path[i:i+1]), "a route matches the path only; write %20 for a space"}
	}
	parts := strings.Split(path[1:], "/")
	segments := make([]segment, 0, len(parts))
	names := map[string]bool{}
	for i, part := range parts {
		last := i == len(parts)-1
		switch {
		case part == "" && last:
			segments = append(segments, segment{multi: true})
		case part == "":
			return nil, &PatternError{"the path has an empty segment", "write one slash"}
		case part == "{$}":
			if !last {
				return nil, &PatternError{"{$} is not at the end", "{$} stands for the end of the path, after its last slash"}
			}
			segments = append(segments, segment{})
		case strings.ContainsAny(part, "{}"):
			name, ok := strings.CutPrefix(part, "{")
			name, closed := strings.CutSuffix(name, "}")
			if !ok || !closed || strings.ContainsAny(name, "{}") {
				return nil, &PatternError{"{ and } do not enclose a whole segment in " + wording.Quote(part), "write /{name}/ between slashes"}
			}
			name, multi := strings.CutSuffix(name, "...")
			if !IsVariable(name) {
				return nil, &PatternError{wording.Quote(name) + " is not a name of a path value", "write letters, digits and _, not beginning with a digit"}
			}
			if multi && !last {
				return nil, &PatternError{"{" + name + "...} is not at the end", "only the last segment may stand for the rest of the path"}
			}
			if names[name] {
				return nil, &PatternError{"the path value " + wording.Quote(name) + " is there twice", "give them different names"}
			}
			names[name] = true
			segments = append(segments, segment{name: name, wild: !multi, multi: multi})
		default:
			literal, err := url.PathUnescape(part)
			if err != nil {
				return nil, &PatternError{wording.Quote(part) + " has a bad escape", "write % and two hexadecimal digits"}
			}
			if leadsElsewhere(literal) {
				return nil, &PatternError{"the path holds " + wording.Quote(part), "such requests are refused: they may mean another path to a service"}
			}
			segments = append(segments, segment{literal: literal})
		}
	}
	return segments, nil
}

// leadsElsewhere reports whether a decoded segment could be read as more than one
// segment, or as a step to another, by someone who decodes once more.
func leadsElsewhere(s string) bool {
	for range 3 {
		name, _, _ := strings.Cut(s, ";")
		if name == "." || name == ".." || strings.ContainsAny(s, "/\\\x00") {
			return true
		}
		decoded, err := url.PathUnescape(s)
		if err != nil || decoded == s {
			break
		}
		s = decoded
	}
	return false
}

// Values returns the names of the path values.
func (p Pattern) Values() []string {
	var names []string
	for _, s := range p.segments {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	return names
}

// Relation is how two routes stand to each other.
type Relation int

// The relations.
const (
	Apart   Relation = iota // no request matches both, or one is more specific
	Same                    // every request that matches one matches the other
	Crossed                 // some requests match both, and neither is more specific
)

// relate compares two routes by net/http's rules, except that methods never make a
// conflict: the more specific host wins, then the more specific path, then the method.
func relate(p, q Pattern) Relation {
	if p.Host != q.Host || !methodsMeet(p.Method, q.Method) || !pathsMeet(p.segments, q.segments) {
		return Apart
	}
	pq, qp := covers(p.segments, q.segments), covers(q.segments, p.segments)
	switch {
	case pq && qp && p.Method == q.Method:
		return Same
	case pq || qp:
		return Apart
	}
	return Crossed
}

// Meet reports whether two routes cannot stand in one file: they are not [Apart].
func Meet(p, q *Pattern) bool { return relate(*p, *q) != Apart }

func methodsMeet(a, b string) bool {
	return a == "" || b == "" || a == b || a == "GET" && b == "HEAD" || a == "HEAD" && b == "GET"
}

// pathsMeet reports whether some path matches both.
func pathsMeet(a, b []segment) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i].multi || b[i].multi:
			return true
		case a[i].wild && b[i].wild:
		case a[i].wild && b[i].literal != "":
		case b[i].wild && a[i].literal != "":
		case a[i].wild || b[i].wild || a[i].literal != b[i].literal:
			return false
		}
	}
}

// covers reports whether a matches every path that b matches.
func covers(a, b []segment) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i].multi:
			return true
		case b[i].multi:
			return false
		case a[i].wild:
			if !b[i].wild && b[i].literal == "" {
				return false
			}
		case b[i].wild || a[i].literal != b[i].literal:
			return false
		}
	}
}

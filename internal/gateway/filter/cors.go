package filter

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead/internal/system"
)

// CORS is [system.CORS], ready to be asked. It is immutable; nil sets no headers.
type CORS struct {
	any         bool
	origins     map[string]bool
	wild        []wildOrigin
	methods     string
	headers     string
	expose      string
	maxAge      string
	credentials bool
}

// wildOrigin is an origin with any one label, or more, at its front.
type wildOrigin struct{ scheme, suffix string }

// NewCORS returns the rule of c, nil if that is nil or names no origin.
func NewCORS(c *system.CORS) *CORS {
	if c == nil || len(c.Origins) == 0 {
		return nil
	}
	methods := c.Methods
	if len(methods) == 0 {
		methods = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	}
	r := &CORS{
		origins: map[string]bool{}, credentials: c.Credentials,
		methods: strings.Join(methods, ", "), headers: strings.Join(c.Headers, ", "), expose: strings.Join(c.Expose, ", "),
	}
	if c.MaxAge > 0 {
		r.maxAge = strconv.FormatInt(int64(c.MaxAge/time.Second), 10)
	}
	for _, o := range c.Origins {
		o = strings.ToLower(o)
		scheme, host, _ := strings.Cut(o, "://")
		switch {
		case o == "*":
			r.any = true
		case strings.HasPrefix(host, "*."):
			r.wild = append(r.wild, wildOrigin{scheme + "://", host[1:]})
		default:
			r.origins[o] = true
		}
	}
	if r.any {
		r.credentials = false // any page could act as the user
	}
	return r
}

// maxOrigin is the longest Origin that is looked at.
const maxOrigin = 300

// Allowed reports whether pages of an origin may read answers.
func (c *CORS) Allowed(origin string) bool {
	if c == nil || origin == "" || len(origin) > maxOrigin {
		return false
	}
	if c.any {
		return true
	}
	if c.origins[origin] {
		return true
	}
	for _, w := range c.wild {
		rest, ok := strings.CutPrefix(origin, w.scheme)
		if !ok {
			continue
		}
		if front, ok := strings.CutSuffix(rest, w.suffix); ok && isHostFront(front) {
			return true
		}
	}
	return false
}

// isHostFront reports whether s can stand before a dot in a host, as browsers write
// it. What is no host, as "evil.com/" or "user@", must not be taken for one.
func isHostFront(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && i > 0 && s[i-1] != '.':
		default:
			return false
		}
	}
	return s != "" && s[len(s)-1] != '.'
}

// Preflight sets the headers of the answer to a preflight of an allowed origin.
func (c *CORS) Preflight(h http.Header, origin string) {
	c.allow(h, origin)
	h.Set("Access-Control-Allow-Methods", c.methods)
	if c.headers != "" {
		h.Set("Access-Control-Allow-Headers", c.headers)
	}
	if c.maxAge != "" {
		h.Set("Access-Control-Max-Age", c.maxAge)
	}
}

// VaryPreflight says what an answer to a preflight depends on.
func (c *CORS) VaryPreflight(h http.Header) {
	vary(h, "Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
}

// Answer sets the headers of the answer to a request with that Origin ("" for none)
// and removes those that a service has set: the door's word counts.
func (c *CORS) Answer(h http.Header, origin string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
	if !c.any {
		vary(h, "Origin") // also without one: a cache must not give that answer to a page
	}
	if !c.Allowed(origin) {
		return
	}
	c.allow(h, origin)
	if c.expose != "" {
		h["Access-Control-Expose-Headers"] = []string{c.expose}
	}
}

func (c *CORS) allow(h http.Header, origin string) {
	if c.any {
		h["Access-Control-Allow-Origin"] = []string{"*"}
		return
	}
	h["Access-Control-Allow-Origin"] = []string{origin}
	if c.credentials {
		h["Access-Control-Allow-Credentials"] = []string{"true"}
	}
}

// vary adds names to Vary that are not in it.
func vary(h http.Header, names ...string) {
	have := h["Vary"]
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(have, func(line string) bool {
			for item := range strings.SplitSeq(line, ",") {
				if item = strings.TrimSpace(item); item == "*" || strings.EqualFold(item, name) {
					return true
				}
			}
			return false
		})
	})
	if len(missing) > 0 {
		h["Vary"] = append(slices.Clip(have), strings.Join(missing, ", "))
	}
}

package bridge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"fairlead/internal/gateway/data"
	"fairlead/internal/gateway/match"
	"fairlead/internal/system"
	"fairlead/internal/wire"
)

// Route is where the requests of one route go, and what its service's errors become.
// It is immutable.
type Route struct {
	service string
	nest    bool
	subject *data.Subject  // nil: fixed
	fixed   string         // an object pattern of NestJS, which is its own subject
	data    *data.Template // nil: the body, else query and path
	retry   bool           // may be sent again whatever the method
	errors  map[string]int
}

// NewRoute compiles a route whose Request is set.
func NewRoute(def *system.Route) (*Route, error) {
	req := def.Request
	if req == nil {
		return nil, fmt.Errorf("compile route %q: has no request", def.Key)
	}
	r := &Route{service: req.Service, retry: def.Retry, errors: req.Errors}
	switch req.Format {
	case system.Nest:
		r.nest = true
	case system.Raw, "":
	default:
		return nil, fmt.Errorf("compile route %q: format %q is not known", def.Key, req.Format)
	}
	names := match.Names(def.Path)
	known := func(name string) bool { return names[name] }
	var err error
	if r.nest && json.Valid([]byte(req.Subject)) && req.Subject[0] == '{' {
		if err = checkObjectPattern(req.Subject); err == nil {
			r.fixed = req.Subject
		}
	} else {
		r.subject, err = data.ParseSubject(req.Subject, known)
	}
	if err != nil {
		return nil, fmt.Errorf("compile route %q: %w", def.Key, err)
	}
	if req.Data != nil {
		if r.data, err = data.ParseTemplate(req.Data, known); err != nil {
			return nil, fmt.Errorf("compile route %q: %w", def.Key, err)
		}
	}
	for name, status := range req.Errors {
		if !errorStatus(status) {
			return nil, fmt.Errorf("compile route %q: errors: %s must be 400 to 599, is %d", def.Key, name, status)
		}
	}
	return r, nil
}

// checkObjectPattern refuses a NestJS pattern that is no subject.
func checkObjectPattern(s string) error {
	var v map[string]any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return fmt.Errorf("read pattern %s: %w", s, err)
	}
	canonical, _, err := wire.NestPattern(v)
	if err != nil {
		return err
	}
	if canonical != s {
		return fmt.Errorf("read pattern %s: must be written %s", s, canonical)
	}
	return nil
}

// Fill makes c a request of the route: its subject, its data, and whether it may be
// sent again. The method is HTTP's; id is told to NestJS, which wants one. Errors are
// the client's: [data.Error].
func (r *Route) Fill(c *Call, in *data.Inputs, method, id string) error {
	subject := r.fixed
	if r.subject != nil {
		var err error
		if subject, err = r.subject.Fill(in.Path); err != nil {
			return err
		}
	}
	var err error
	if c.data, err = r.appendRequest(c.data, in, subject, id); err != nil {
		return err
	}
	c.route, c.again = r, r.again(method)
	c.msg.Subject, c.msg.Data = subject, c.data
	return nil
}

// appendRequest appends what is sent for a request.
func (r *Route) appendRequest(dst []byte, in *data.Inputs, subject, id string) ([]byte, error) {
	if !r.nest {
		return r.appendData(dst, in)
	}
	payload := in.Body
	if r.data != nil || len(payload) == 0 {
		var err error
		if payload, err = r.appendData(nil, in); err != nil {
			return dst, err
		}
	}
	var pattern json.RawMessage
	if r.subject == nil {
		pattern = json.RawMessage(r.fixed)
	} else {
		pattern = wire.AppendString(nil, subject)
	}
	return wire.AppendNestRequest(dst, pattern, payload, id), nil
}

func (r *Route) appendData(dst []byte, in *data.Inputs) ([]byte, error) {
	if r.data != nil {
		return r.data.Append(dst, in)
	}
	return data.AppendDefault(dst, in)
}

// again reports whether a request may be sent again although an instance may have
// begun with it.
func (r *Route) again(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.retry
}

// statusOf returns the status for a service's error: by its message or its own
// status in the route's map, its own status, the map's default, or 502.
func (r *Route) statusOf(own int, message string) int {
	if s, ok := r.errors[message]; ok {
		return s
	}
	if errorStatus(own) {
		if s, ok := r.errors[strconv.Itoa(own)]; ok {
			return s
		}
		return own
	}
	if s, ok := r.errors["default"]; ok {
		return s
	}
	return http.StatusBadGateway
}

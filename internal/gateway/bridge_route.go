package gateway

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

// busRoute is the part of a route that leads over the bus, compiled.
type busRoute struct {
	service string
	nest    bool
	subject *data.Subject  // nil: fixed
	fixed   string         // an object pattern of NestJS, which is its own subject
	data    *data.Template // nil: the body, else query and path
	retry   bool           // may be sent again whatever the method
	errors  map[string]int
}

// newBusRoute compiles def, whose Request must be set.
func newBusRoute(def *system.Route) (*busRoute, error) {
	req := def.Request
	if req == nil {
		return nil, fmt.Errorf("compile route %q: has no request", def.Key)
	}
	br := &busRoute{service: req.Service, retry: def.Retry, errors: req.Errors}
	switch req.Format {
	case system.Nest:
		br.nest = true
	case system.Raw, "":
	default:
		return nil, fmt.Errorf("compile route %q: format %q is not known", def.Key, req.Format)
	}
	names := match.Names(def.Path)
	known := func(name string) bool { return names[name] }
	var err error
	if br.nest && json.Valid([]byte(req.Subject)) && req.Subject[0] == '{' {
		if err = checkObjectPattern(req.Subject); err == nil {
			br.fixed = req.Subject
		}
	} else {
		br.subject, err = data.ParseSubject(req.Subject, known)
	}
	if err != nil {
		return nil, fmt.Errorf("compile route %q: %w", def.Key, err)
	}
	if req.Data != nil {
		if br.data, err = data.ParseTemplate(req.Data, known); err != nil {
			return nil, fmt.Errorf("compile route %q: %w", def.Key, err)
		}
	}
	for name, status := range req.Errors {
		if !errorStatus(status) {
			return nil, fmt.Errorf("compile route %q: errors: %s must be 400 to 599, is %d", def.Key, name, status)
		}
	}
	return br, nil
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

// subjectOf returns the subject of a request.
func (br *busRoute) subjectOf(vars match.Values) (string, error) {
	if br.subject == nil {
		return br.fixed, nil
	}
	return br.subject.Fill(vars)
}

// appendRequest appends what is sent for a request.
func (br *busRoute) appendRequest(dst []byte, in *data.Inputs, subject, id string) ([]byte, error) {
	if !br.nest {
		return br.appendData(dst, in)
	}
	payload := in.Body
	if br.data != nil || len(payload) == 0 {
		var err error
		if payload, err = br.appendData(nil, in); err != nil {
			return dst, err
		}
	}
	var pattern json.RawMessage
	if br.subject == nil {
		pattern = json.RawMessage(br.fixed)
	} else {
		pattern = wire.AppendString(nil, subject)
	}
	return wire.AppendNestRequest(dst, pattern, payload, id), nil
}

func (br *busRoute) appendData(dst []byte, in *data.Inputs) ([]byte, error) {
	if br.data != nil {
		return br.data.Append(dst, in)
	}
	return data.AppendDefault(dst, in)
}

// again reports whether a request may be sent again although an instance may have
// begun with it.
func (br *busRoute) again(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return br.retry
}

// statusOf returns the status for a service's error: by its message or its own
// status in the route's map, its own status, the map's default, or 502.
func (br *busRoute) statusOf(own int, message string) int {
	if s, ok := br.errors[message]; ok {
		return s
	}
	if errorStatus(own) {
		if s, ok := br.errors[strconv.Itoa(own)]; ok {
			return s
		}
		return own
	}
	if s, ok := br.errors["default"]; ok {
		return s
	}
	return http.StatusBadGateway
}

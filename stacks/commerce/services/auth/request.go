package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"fairlead/service"
)

// signUp, credentials and refreshToken refuse fields that they do not have: who
// writes "name" for "username" is told so, and not that the login is wrong.
type signUp struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	Password string `json:"password"`
}

// UnmarshalJSON makes an error of a field that is not one of a registration.
func (r *signUp) UnmarshalJSON(data []byte) error {
	type fields signUp
	return only(data, (*fields)(r), "username", "password", "email")
}

type credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// UnmarshalJSON makes an error of a field that is not one of a login.
func (r *credentials) UnmarshalJSON(data []byte) error {
	type fields credentials
	return only(data, (*fields)(r), "username", "password")
}

type refreshToken struct {
	RefreshToken string `json:"refresh_token"`
}

// UnmarshalJSON makes an error of any other field.
func (r *refreshToken) UnmarshalJSON(data []byte) error {
	type fields refreshToken
	return only(data, (*fields)(r), "refresh_token")
}

// only decodes an object that may have the fields of those names and no others.
func only(data []byte, into any, names ...string) error {
	if err := json.Unmarshal(data, into); err != nil {
		return err // the package service says in public words what is wrong where
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	var unknown []string
	for name := range fields {
		if !slices.Contains(names, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	// The same request gets the same answer.
	return service.Errorf(http.StatusUnprocessableEntity, "%.40q is not a field of this request, which has %s",
		slices.Min(unknown), strings.Join(names, ", "))
}

// given returns an error that names the first field without a value, of pairs of
// names and values.
func given(fields ...[2]string) error {
	for _, f := range fields {
		if f[1] == "" {
			return service.Errorf(http.StatusUnprocessableEntity, "%s must be given", f[0])
		}
	}
	return nil
}

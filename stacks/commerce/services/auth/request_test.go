package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"fairlead/service"
)

func TestRequestsHaveTheirFieldsOnly(t *testing.T) {
	const password = "correct horse battery"
	tests := []struct {
		name, in string
		into     any
		public   string // of the refusal, "" for none
	}{
		{"login", `{"username":"eve","password":"x"}`, &credentials{}, ""},
		{"login without fields", `{}`, &credentials{}, ""},
		{"login as null", `null`, &credentials{}, ""},
		{"login with a name", `{"name":"eve","password":"x"}`, &credentials{}, `"name" is not a field of this request, which has username, password`},
		{"login in capitals", `{"Username":"eve","password":"x"}`, &credentials{}, `"Username" is not a field of this request, which has username, password`},
		{"login with two more", `{"username":"eve","password":"x","b":1,"a":1}`, &credentials{}, `"a" is not a field of this request, which has username, password`},
		{"registration", `{"username":"eve","password":"` + password + `","email":"e@example.org"}`, &signUp{}, ""},
		{"registration with a role", `{"username":"eve","password":"` + password + `","role":"admin"}`, &signUp{}, `"role" is not a field of this request, which has username, password, email`},
		{"logout with another token", `{"token":"x"}`, &refreshToken{}, `"token" is not a field of this request, which has refresh_token`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := json.Unmarshal([]byte(tt.in), tt.into)
			if tt.public == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused, ok := errors.AsType[*service.Error](err)
			if !ok || refused.Status != http.StatusUnprocessableEntity || refused.Public != tt.public {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRequestsWithoutAFieldAreNotTaken(t *testing.T) {
	tests := []struct {
		name, public string
		call         func(api) error
	}{
		{"login without name", "username must be given", func(a api) error {
			_, err := a.login(t.Context(), credentials{Password: "x"})
			return err
		}},
		{"login with a name of spaces", "username must be given", func(a api) error {
			_, err := a.login(t.Context(), credentials{Username: "  ", Password: "x"})
			return err
		}},
		{"login without password", "password must be given", func(a api) error {
			_, err := a.login(t.Context(), credentials{Username: "eve"})
			return err
		}},
		{"registration without name", "username must be given", func(a api) error {
			_, err := a.signUp(t.Context(), signUp{Password: "correct horse battery"})
			return err
		}},
		{"registration without password", "password must be given", func(a api) error {
			_, err := a.signUp(t.Context(), signUp{Username: "eve"})
			return err
		}},
		{"refresh", "refresh_token must be given", func(a api) error {
			_, err := a.refresh(t.Context(), refreshToken{})
			return err
		}},
		{"logout", "refresh_token must be given", func(a api) error {
			_, err := a.logout(t.Context(), refreshToken{})
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Without accounts behind it: whatever asked them would panic.
			err := tt.call(api{})
			refused, ok := errors.AsType[*service.Error](err)
			if !ok || refused.Status != http.StatusUnprocessableEntity || refused.Public != tt.public {
				t.Errorf("got %v", err)
			}
		})
	}
}

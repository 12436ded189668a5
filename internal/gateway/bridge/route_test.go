package bridge

import (
	"testing"

	"fairlead/internal/system"
)

func TestRouteCompile(t *testing.T) {
	tests := []struct {
		name string
		def  system.Route
		ok   bool
	}{
		{"raw", system.Route{Path: "/x", Request: &system.Request{Subject: "a.b"}}, true},
		{"path value", system.Route{Path: "/x/{id}", Request: &system.Request{Subject: "a.{id}", Format: system.Nest}}, true},
		{"rest of the path", system.Route{Path: "/x/{id...}", Request: &system.Request{Subject: "a.b", Data: "$path.id"}}, true},
		{"object pattern", system.Route{Path: "/x", Request: &system.Request{Subject: `{"area":"t","cmd":"f"}`, Format: system.Nest}}, true},
		{"object pattern not in order", system.Route{Path: "/x", Request: &system.Request{Subject: `{"cmd":"f","area":"t"}`, Format: system.Nest}}, false},
		{"object pattern for raw", system.Route{Path: "/x", Request: &system.Request{Subject: `{"cmd":"f"}`}}, false},
		{"no such path value", system.Route{Path: "/x", Request: &system.Request{Subject: "a.{id}"}}, false},
		{"bad data", system.Route{Path: "/x", Request: &system.Request{Subject: "a", Data: "$nope"}}, false},
		{"bad status", system.Route{Path: "/x", Request: &system.Request{Subject: "a", Errors: map[string]int{"x": 200}}}, false},
		{"bad format", system.Route{Path: "/x", Request: &system.Request{Subject: "a", Format: "xml"}}, false},
		{"no request", system.Route{Path: "/x"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewRoute(&tt.def); (err == nil) != tt.ok {
				t.Fatalf("compile: %v", err)
			}
		})
	}
}

func TestRouteErrorStatus(t *testing.T) {
	br := &Route{errors: map[string]int{"Invalid credentials.": 401, "409": 422, "default": 500}}
	plain := &Route{}
	tests := []struct {
		name    string
		route   *Route
		own     int
		message string
		want    int
	}{
		{"by message", br, 500, "Invalid credentials.", 401},
		{"by its own status", br, 409, "dup", 422},
		{"its own status", br, 404, "no", 404},
		{"default", br, 0, "no", 500},
		{"nothing known", plain, 0, "no", 502},
		{"status that is none", plain, 200, "no", 502},
		{"beyond the range", plain, 600, "no", 502},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.route.statusOf(tt.own, tt.message); got != tt.want {
				t.Fatalf("status is %d, want %d", got, tt.want)
			}
		})
	}
}

package system

import "testing"

func TestFindingString(t *testing.T) {
	tests := []struct {
		f    Finding
		want string
	}{
		{
			Finding{File: "fairlead.yaml", Line: 12, Column: 7, Field: "services.api.replicas", Problem: "must be 0 to 64, is 640", Advice: "start a second node for more"},
			"fairlead.yaml:12:7: services.api.replicas: must be 0 to 64, is 640; start a second node for more",
		},
		{Finding{File: "f", Line: 1, Column: 1, Problem: "holds nothing"}, "f:1:1: holds nothing"},
		{Finding{File: "f", Problem: "p"}, "f: p"},
	}
	for _, tt := range tests {
		if got := tt.f.String(); got != tt.want {
			t.Errorf("String() = %q, want %q", got, tt.want)
		}
	}
}

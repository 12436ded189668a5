package wording

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"services", "secrets", "routes", "bus"}
	tests := map[string]string{"sevices": "services", "Services": "services", "secrtes": "secrets", "route": "routes", "gateway": "", "buss": "bus", "": ""}
	for word, want := range tests {
		if got, _ := Nearest(word, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
	if d := edits("ab", "ba"); d != 1 {
		t.Errorf("edits counts a swap as %d, want 1", d)
	}
}

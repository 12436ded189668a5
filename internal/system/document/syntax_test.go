package document

import "testing"

// TestSyntax is about files that are no YAML: where the person's mistake is, not
// where the parser noticed, and what to do about it.
func TestSyntax(t *testing.T) {
	tests := []struct{ name, src, want string }{
		{"tab", "system: s\nservices:\n\tapi: {command: a}\n", "3:1: is indented with a tab; indent with spaces"},
		{"tab further down", "system: s\nservices:\n  api:\n\t  command: a\n", "4:1: is indented with a tab; indent with spaces"},
		{"no space after the colon", "system: s\nservices:\n  api:\n    command: a\n    replicas:2\n", `5:5: has no space after the colon: "replicas:2"; write replicas: 2`},
		{"no space, not the last", "system: s\nservices:\n  api:\n    replicas:2\n    command: a\n", `4:5: has no space after the colon: "replicas:2"; write replicas: 2`},
		{"no space in the first line", "system:s\nservices:\n  api:\n    command: a\n", `1:1: has no space after the colon: "system:s"; write system: s`},
		{"no colon", "system: s\nservices\n  api: {command: a}\n", `2:1: has no colon after "services"; write services:`},
		{"deeper", "system: s\nservices:\n  api:\n    command: a\n     replicas: 2\n", "5:6: is indented by 5, deeper than line 4, which has a value already; indent it by 4, as that line"},
		{"deeper section", "system: s\n services:\n  api: {command: a}\n", "2:2: is indented by 1, deeper than line 1, which has a value already; indent it by 0, as that line"},
		{"less deep", "system: s\nservices:\n  api:\n     command: a\n    replicas: 2\n", "5:5: is indented by 4, the lines around it by 2 or 5; indent it as those that it belongs to"},
		{"less deep by one", "system: s\nservices:\n  api:\n    command: a\n   replicas: 2\n", "5:4: is indented by 3, the lines around it by 2 or 4; indent it as those that it belongs to"},
		{"second key", "system: s\nservices:\n  a: b: c\n", "3:6: has a second key on one line; quote the value if the colon belongs to it, or begin a new line"},
		{"key in a list", "system: s\nservices:\n  - a\n  b: c\n", "4:3: is a key among the items of a list; begin it with a dash, or indent it as the key of the list"},
		{"brace", "system: s\nroutes:\n  GET /a: {service: a\n\nsecrets:\n  A: {generate: 3}\n", "3:11: opens with { and is never closed; write } where it ends"},
		{"bracket", "system: s\nservices:\n  api: {command: a, bus: {answers: [a.>, b.>}}\n  web: {command: [a]}\n", "3:36: opens with [, but } at line 3:45 comes first; write ] where it ends"},
		{"bracket at the end", "system: s\nservices:\n  api: [a\n", "3:8: opens with [ and is never closed; write ] where it ends"},
		{"one too many", "system: s\nservices:\n  api: {command: a}}\n", "3:20: closes with } what was never opened; remove it, or write the opening bracket"},
		{"no comma", "system: s\nservices:\n  api: {command: [a] replicas: 2}\n", "3:22: stands without a comma after what is before it; separate what is in brackets by commas, and keys from values by a colon and a space"},
		{"double quote", "system: s\nservices:\n  api: {command: \"a}\nroutes:\n  /a: {service: api}\n", `3:18: begins a text with " that never ends; write the closing "`},
		{"single quote", "system: s\nservices:\n  api: {command: 'a}\n", "3:18: begins a text with ' that never ends; write the closing '"},
		{"after a quote", "system: s\nservices:\n  api:\n    command: 'it's'\n", "4:18: goes on after the closing quote; put the text into the other quotes; within '...' a ' is written twice"},
		{"reserved", "system: s\nservices:\n  api: {command: @x}\n", "3:18: begins a text with a sign that YAML keeps for itself; quote the text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, faults := read(tt.src)
			if n != nil || len(faults) != 1 || faults[0].Code != syntaxError {
				t.Fatalf("Read: %v and %v, want one syntax error", n, faults)
			}
			if got := told(faults[0]); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

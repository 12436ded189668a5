package node

import (
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/control"
	"fairlead/internal/system"
)

func TestCheckTypes(t *testing.T) {
	model := func(queue, typ string, schemas ...string) *system.System {
		sys := &system.System{Queues: []system.Queue{{Name: queue, Type: typ}}}
		for i := 0; i < len(schemas); i += 2 {
			sys.Types = append(sys.Types, system.Type{Name: schemas[i], Schema: []byte(schemas[i+1])})
		}
		return sys
	}
	const open, strict = `{"type": "object"}`, `{"type": "object", "required": ["id"]}`
	tests := []struct {
		name      string
		old, next *system.System
		want      string // part of the error, "" for none
	}{
		{"the same", model("q", "T", "T", open), model("q", "T", "T", open), ""},
		{"a new queue", model("q", "T", "T", open), model("r", "U", "U", strict), ""},
		{"a type for a queue that had none", model("q", ""), model("q", "T", "T", strict), ""},
		{"a safe change", model("q", "T", "T", open), model("q", "T", "T", `{"type": "object", "properties": {"a": {}}}`), ""},
		{"a change that breaks", model("q", "T", "T", open), model("q", "T", "T", strict), `type T: /required asks for "id" now`},
		{"another type that is the same", model("q", "T", "T", open), model("q", "U", "U", open), ""},
		{"another type", model("q", "T", "T", open), model("q", "U", "U", strict), `type U: /required asks for "id" now`},
		{"no type any more", model("q", "T", "T", open), model("q", ""), "queue q has no type any more"},
		{"a type that no queue has", model("q", "", "T", open), model("q", "", "T", strict), ""},
		{"a queue that is gone", model("q", "T", "T", open), &system.System{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := checkTypes(tt.old, tt.next)
			if tt.want == "" && err == nil {
				return
			}
			if tt.want == "" || err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(control.ErrorFrom(err).Hint, "--force-types") {
				t.Errorf("checkTypes: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLiteral(t *testing.T) {
	for subject, ok := range map[string]bool{
		"data.vhf": true, "a": true, "": false, "data.*": false, "data.>": false, "$FLQ.ok.a": false, "_INBOX.a": false,
		"a..b": false, ".a": false, "a b": false,
	} {
		if err := literal(subject); (err == nil) != ok {
			t.Errorf("literal(%q): %v", subject, err)
		}
	}
}

// It was told with the name of a temporary file.
func TestBackupNamesTheFolderThatIsMissing(t *testing.T) {
	f := newFixture(t)
	f.write("system: small\ngateway: {listen: \"127.0.0.1:0\"}\nqueues: {data.a: {}}\n")
	f.up()
	dir := filepath.Join(f.dir, "gone")
	_, err := verb[control.Backup](f, control.VerbBackupBus, control.BackupRequest{File: filepath.Join(dir, "b.tar")})
	if e := control.ErrorFrom(err); e == nil || e.Message != "there is no folder "+dir || !strings.Contains(e.Hint, "mkdir") {
		t.Errorf("got %v", err)
	}
}

//go:build real

package asyncapi

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"fairlead/internal/system"
)

// TestRealSchema holds documents against the schema that AsyncAPI publishes.
func TestRealSchema(t *testing.T) {
	text, err := os.ReadFile("testdata/node_modules/@asyncapi/specs/schemas/3.0.0.json")
	if err != nil {
		t.Fatalf("%v; run in testdata: npm ci --ignore-scripts", err)
	}
	definition, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	const name = "http://asyncapi.com/definitions/3.0.0/asyncapi.json"
	if err := c.AddResource(name, definition); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	systems := []*system.System{shop(t), {Name: "empty"}}
	files, err := filepath.Glob("../../../stacks/*/fairlead.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stacks: %v", err)
	}
	for _, file := range files {
		sys, err := system.Load(file, system.Options{})
		if err != nil {
			t.Fatal(err)
		}
		systems = append(systems, sys)
	}
	for _, sys := range systems {
		t.Run(sys.Name, func(t *testing.T) {
			text, err := Write(sys)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(doc); err != nil {
				t.Errorf("%v\n%s", err, text)
			}
			doc.(map[string]any)["channels"] = "none"
			if schema.Validate(doc) == nil {
				t.Error("the schema accepts anything")
			}
		})
	}
}

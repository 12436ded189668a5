package asyncapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"fairlead/internal/system"
)

var update = flag.Bool("update", false, "write the golden file anew")

// shop is a system with everything that a document tells.
func shop(tb testing.TB) *system.System {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range map[string]string{
		"order.json": `{
			"$id": "https://example.com/order", "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
			"properties": {"id": {"type": "integer", "maximum": 12345678901234567890}, "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}, "parent": {"$ref": "https://example.com/order"}},
			"$defs": {"line": {"type": "object", "properties": {"next": {"$ref": "#/$defs/line"}}}}}`,
		"any.json": "true",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	const src = `system: shop
services:
  api: {command: api, bus: {publishes: ["orders.>", plain], subscribes: ["data.*"]}}
  web: {command: web}
bus: {users: {lab: {secret: LAB, subscribes: ["data.vhf", "data.>"]}}}
queues:
  orders.created: {type: Order, keep: 30d}
  orders.*.paid.>: {type: Order, enforce: quarantine, max_bytes: 1GiB, max_messages: 1000}
  data.*: {keep: 36h}
  seen: {type: Anything, enforce: observe, keep: 1d}
types: {Order: order.json, Anything: any.json}
routes:
  POST /hooks/{shop}: {publish: "orders.{shop}.paid.x"}
  /live/{p}: {subscribe: "data.{p}"}
  /: {service: web}
secrets: {LAB: {generate: 24}}
`
	sys, err := system.Parse("fairlead.yaml", []byte(src), dir, system.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return sys
}

func TestDocument(t *testing.T) {
	sys := shop(t)
	got, err := Write(sys)
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/shop.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("Write:\n%s\nwant %s:\n%s", got, golden, want)
	}
	again, err := Write(shop(t))
	if err != nil || !bytes.Equal(got, again) {
		t.Errorf("the same file gives another document, or %v", err)
	}
}

func TestEmbed(t *testing.T) {
	for _, tt := range []struct{ name, schema, want string }{
		{"no map", `true`, `true`},
		{"the schema itself", `{"items": {"$ref": "#"}}`, `{"items": {"$ref": "#/x"}}`},
		{"a part of it", `{"anyOf": [{"$ref": "#/$defs/a"}]}`, `{"anyOf": [{"$ref": "#/x/$defs/a"}]}`},
		{"by its name", `{"$id": "https://a/b", "not": {"$ref": "https://a/b#/$defs/a"}}`, `{"not": {"$ref": "#/x/$defs/a"}}`},
		{"by an anchor", `{"not": {"$ref": "#a"}}`, `{"not": {"$ref": "#a"}}`},
		{"a property of that name", `{"properties": {"$ref": {"$ref": "#"}, "const": {"$ref": "#"}}}`, `{"properties": {"$ref": {"$ref": "#/x"}, "const": {"$ref": "#/x"}}}`},
		{"values", `{"const": {"$ref": "#"}, "enum": [{"$ref": "#"}], "default": {"$ref": "#"}}`, `{"const": {"$ref": "#"}, "enum": [{"$ref": "#"}], "default": {"$ref": "#"}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s, want any
			if err := errors.Join(json.Unmarshal([]byte(tt.schema), &s), json.Unmarshal([]byte(tt.want), &want)); err != nil {
				t.Fatal(err)
			}
			if got := embed(s, "#/x"); !reflect.DeepEqual(got, want) {
				t.Errorf("embed(%s) = %v, want %v", tt.schema, got, want)
			}
		})
	}
}

// TestReferencesLeadSomewhere: each JSON pointer in the document finds what it names.
func TestReferencesLeadSomewhere(t *testing.T) {
	text, err := Write(shop(t))
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	found := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			for key, value := range v {
				if ref, ok := value.(string); ok && key == "$ref" {
					found++
					at := doc
					for token := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
						m, _ := at.(map[string]any)
						if at, ok = m[token]; !ok {
							t.Errorf("%s leads nowhere", ref)
							break
						}
					}
				}
				if key != "const" && key != "examples" {
					walk(value)
				}
			}
		}
	}
	walk(doc)
	if found < 10 {
		t.Errorf("found %d references", found)
	}
}

func TestVersionChangesWithTheContent(t *testing.T) {
	version := func(sys *system.System) string {
		t.Helper()
		text, err := Write(sys)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Info struct{ Version string } }
		if err := json.Unmarshal(text, &doc); err != nil || doc.Info.Version == "" {
			t.Fatalf("version: %v in %s", err, text)
		}
		return doc.Info.Version
	}
	before := shop(t)
	after := shop(t)
	after.Gateway.Limits.Body++
	if version(before) != version(after) {
		t.Error("what is not in the document changes its version")
	}
	after.Queues[0].Keep++
	if version(before) == version(after) {
		t.Error("another queue has the same version")
	}
}

func TestDocumentWithoutQueues(t *testing.T) {
	text, err := Write(&system.System{Name: "empty"})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil || !reflect.DeepEqual(doc["channels"], map[string]any{}) {
		t.Errorf("%v in %s", err, text)
	}
	if _, err := Write(&system.System{Types: []system.Type{{Name: "A", Schema: []byte("{")}}}); err == nil {
		t.Error("a type that is no JSON is written")
	}
}

func BenchmarkWrite(b *testing.B) {
	sys := shop(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Write(sys); err != nil {
			b.Fatal(err)
		}
	}
}

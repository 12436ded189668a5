package system

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// sameAsWhole reads what follows before as Load does with Options.Before, and compares
// it with the file read without. It reports whether the routes were read alone.
func sameAsWhole(t *testing.T, before *System, src []byte) (is *System, alone bool) {
	t.Helper()
	opts := Options{Environment: before.Environment}
	is, alone = before.again(src, opts)
	if !alone {
		return nil, false
	}
	want, err := Parse(FileName, src, before.Dir, opts)
	if err != nil {
		t.Fatalf("is read alone, but the whole says: %v\n%s", err, src)
	}
	got, whole := *is, *want
	got.reading, whole.reading = nil, nil
	if !reflect.DeepEqual(got, whole) {
		t.Fatalf("is read alone as\n%+v\nnot as\n%+v\nfrom\n%s", got, whole, src)
	}
	if is.reading == nil || want.reading == nil || !reflect.DeepEqual(is.reading.entries.Starts, want.reading.entries.Starts) ||
		is.reading.entries.End != want.reading.entries.End || !reflect.DeepEqual(is.reading.known, want.reading.known) {
		t.Fatalf("routes lie elsewhere than in\n%s", src)
	}
	if diff := Diff(is, want); len(diff) > 0 {
		t.Fatalf("differs from the whole by %v", diff)
	}
	return is, true
}

const manyRoutes = `system: a
gateway:
  auth: {basic: {users: {ann: USERS}}}
services:
  api: {external: ["127.0.0.1:1"]}
  shop: {external: ["127.0.0.1:2"]}
  bus: {command: run, bus: {answers: [a.find]}}
secrets:
  USERS: {generate: 24}
routes:
  # of the shop
  /a/: {service: api}
  GET /b/{id}: {service: shop, strip_prefix: true}

  /c:
    service: api   # for now
    timeout: 3s

  /d: {service: {api: 1, shop: 2}}
  POST /e: {request: a.find}
# the rest
queues:
  data.*: {keep: 1h}
environments:
  test:
    services: {shop: {external: ["127.0.0.1:3"]}}
`

func TestRoutesAreReadAlone(t *testing.T) {
	tests := map[string]struct {
		old, text string // the one is replaced by the other
		alone     bool
	}{
		"nothing":                       {"", "", true},
		"a value":                       {"timeout: 3s", "timeout: 30s", true},
		"a route comes":                 {"  /c:\n", "  /new/{id}: {service: shop}\n  /c:\n", true},
		"a route comes first":           {"  /a/:", "  /0/: {service: shop}\n  /a/:", true},
		"a route comes last":            {"# the rest", "  /z: {service: shop}\n# the rest", true},
		"a route goes":                  {"  GET /b/{id}: {service: shop, strip_prefix: true}\n", "", true},
		"the first goes":                {"  /a/: {service: api}\n", "", true},
		"the last goes":                 {"  POST /e: {request: a.find}\n", "", true},
		"all but one go":                {manyRoutes[strings.Index(manyRoutes, "  GET /b"):strings.Index(manyRoutes, "  POST")], "", true},
		"a key":                         {"GET /b/{id}", "PUT /b/{id}", true},
		"a comment":                     {"for now", "for good", true},
		"the last that leads there":     {"service: {api: 1, shop: 2}", "service: api", true},
		"two far from each other":       {manyRoutes[strings.Index(manyRoutes, "/a/"):strings.Index(manyRoutes, "POST")], "/0/: {service: shop}\n  /1: {service: api}\n  ", true},
		"from the bus to a queue":       {"POST /e: {request: a.find}", "POST /e: {publish: data.x}", true},
		"all go":                        {manyRoutes[strings.Index(manyRoutes, "  /a/"):strings.Index(manyRoutes, "# the rest")], "", false},
		"a service":                     {"127.0.0.1:2", "127.0.0.1:4", false},
		"the comment before the routes": {"of the shop", "of the house", false},
		"a section after the routes":    {"keep: 1h", "keep: 2h", false},
		"a section in their midst":      {"  /c:\n", "x: y\n  /c:\n", false},
		"a line of the one before":      {"  /c:\n", "    timeout: 1s\n  /c:\n", false},
		"a route that is there":         {"  POST /e:", "  /a/: {service: api}\n  POST /e:", false},
		"one that crosses another":      {"POST /e", "/c", false},
		"an unknown service":            {"timeout: 3s", "timeout: 3s\n    role: x\n    sticky: x", false},
		"no end of a line":              {"shop: 2}}\n", "shop: 2}}", false},
		"a subject that nobody answers": {"a.find}\n#", "a.seek}\n#", false},
		"a bracket that stays open":     {"shop: 2}}", "shop: 2}", false},
		"no text":                       {"for now", "\xff", false},
	}
	for name, tt := range tests {
		for _, environment := range []string{"", "test"} {
			t.Run(name+environment, func(t *testing.T) {
				before, err := Parse(FileName, []byte(manyRoutes), t.TempDir(), Options{Environment: environment})
				if err != nil {
					t.Fatal(err)
				}
				src := strings.Replace(manyRoutes, tt.old, tt.text, 1)
				is, alone := sameAsWhole(t, before, []byte(src))
				if alone != tt.alone {
					t.Fatalf("read alone: %v", alone)
				}
				if alone { // and back
					sameAsWhole(t, is, []byte(manyRoutes))
				}
			})
		}
	}
}

func TestRoutesAreNotReadAlone(t *testing.T) {
	file := func(routes string) string {
		return "system: a\nservices:\n  api: {external: ['127.0.0.1:1']}\nroutes:" + routes
	}
	tests := map[string]string{
		"in brackets":         file(" {\n  /a: {service: api},\n  /b: {service: api}\n}\n"),
		"read by the library": "system: a\nservices:\n  api:\n    command: >\n      run\n    environment: {A: \"\\n\"}\nroutes:\n  /a: {service: api}\n",
		"in an environment":   file("\n  /a: {service: api}\nenvironments: {x: {routes: {/b: {service: api}}}}\n"),
		"no routes":           "system: a\n",
		"a mark before":       "\ufeff" + file("\n  /a: {service: api}\n"),
		"the ends of Windows": strings.ReplaceAll(file("\n  /a: {service: api}\n"), "\n", "\r\n"),
	}
	for name, src := range tests {
		t.Run(name, func(t *testing.T) {
			before, err := Parse(FileName, []byte(src), t.TempDir(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, alone := before.again([]byte(src), Options{}); alone {
				t.Error("is read alone")
			}
		})
	}
}

// What the file names on the disk is looked at whatever changed.
func TestAFolderThatWentIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const src = "system: a\nservices:\n  api: {external: ['127.0.0.1:1']}\ntypes: {Note: note.json}\nroutes:\n  /a: {service: api}\n  /f/: {files: public}\n"
	schema := filepath.Join(dir, "note.json")
	write(schema, `{"type": "object"}`)
	write(path, src)
	if err := os.Mkdir(filepath.Join(dir, "public"), 0o700); err != nil {
		t.Fatal(err)
	}
	sys, err := Load(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Load(path, Options{Before: sys}); err != nil || again.reading.passes[0] != sys.reading.passes[0] {
		t.Fatalf("is not read alone, %v", err)
	}
	write(schema, `{"type": "array"}`)
	if again, err := Load(path, Options{Before: sys}); err != nil || string(again.Files["note.json"]) != `{"type": "array"}` {
		t.Errorf("a schema that changed: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "public")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, Options{Before: sys}); err == nil || !strings.Contains(err.Error(), "public") {
		t.Errorf("a folder that went: %v", err)
	}
}

// TestRoutesAreReadAloneOverAndOver changes a file at random, many times in a row.
func TestRoutesAreReadAloneOverAndOver(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	lines := []string{
		"  /n%d/: {service: api}\n", "  GET /n%d/{id}: {service: shop, timeout: 2s}\n", "  /n%d:\n    service: api\n    # so\n",
		"  # n%d\n", "\n", "    timeout: %ds\n", "x%d: y\n", "  POST /n%d: {request: a.find}\n", "  /n%d: {service: none}\n", "  h%d.example.com/: {service: shop}\n",
	}
	before, err := Parse(FileName, []byte(manyRoutes), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	alone, all := 0, 3000
	for range all {
		text := strings.SplitAfter(string(before.Source), "\n")
		at := random.IntN(len(text))
		gone := random.IntN(3)
		if random.IntN(20) == 0 {
			gone = random.IntN(len(text))
		}
		var come strings.Builder
		for range random.IntN(3) {
			line := lines[random.IntN(len(lines))]
			if strings.Contains(line, "%") {
				line = fmt.Sprintf(line, random.IntN(40))
			}
			come.WriteString(line)
		}
		src := strings.Join(text[:at], "") + come.String() + strings.Join(text[min(at+gone, len(text)):], "")
		if is, ok := sameAsWhole(t, before, []byte(src)); ok {
			before = is
			alone++
		}
	}
	t.Logf("%d of %d were read alone, %d routes are left", alone, all, len(before.Routes))
	if alone < all/10 {
		t.Errorf("%d of %d were read alone", alone, all)
	}
}

// FuzzAgain: what is read alone is what the whole file is.
func FuzzAgain(f *testing.F) {
	archives, _ := filepath.Glob("testdata/valid/*.txtar")
	for _, archive := range archives {
		ar, err := txtar.ParseFile(archive)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ar.Files[0].Data, uint16(len(ar.Files[0].Data)/2), uint16(3), []byte("/x"))
	}
	f.Add([]byte(manyRoutes), uint16(strings.Index(manyRoutes, "/c")), uint16(2), []byte("/x: {service: api}\n  /y"))
	f.Add([]byte(manyRoutes), uint16(strings.Index(manyRoutes, "/d")), uint16(0), []byte("/x:\n    service: api\n  "))
	f.Add([]byte(manyRoutes), uint16(strings.Index(manyRoutes, "\n  /d")), uint16(1), []byte("\n    role: x\n\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, src []byte, at, gone uint16, come []byte) {
		before, err := Parse(FileName, bytes.Clone(src), dir, Options{})
		if err != nil {
			return
		}
		from := min(int(at), len(src))
		to := min(from+int(gone), len(src))
		changed := append(append(bytes.Clone(src[:from]), come...), src[to:]...)
		if is, alone := sameAsWhole(t, before, changed); alone {
			if _, back := sameAsWhole(t, is, src); !back && len(come) < 1000 && len(src) < 1000 {
				t.Logf("is not read alone on the way back\n%s", changed)
			}
		}
	})
}

func BenchmarkParse5000RoutesAgain(b *testing.B) {
	var files [2][]byte
	for i := range files {
		var src bytes.Buffer
		src.WriteString("system: a\nservices:\n  backend: {external: ['127.0.0.1:1']}\nroutes:\n")
		for j := range maxRoutes - 1 {
			fmt.Fprintf(&src, "  /r%d/: {service: backend}\n", j)
		}
		fmt.Fprintf(&src, "  /x%d/: {service: backend}\n", i)
		files[i] = src.Bytes()
	}
	sys, err := Parse(FileName, files[0], "/", Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if sys, err = Parse(FileName, files[(i+1)%2], "/", Options{Before: sys}); err != nil {
			b.Fatal(err)
		}
	}
}

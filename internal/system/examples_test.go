package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// around is what an example of a part of a file stands in: of each section, this is
// taken unless the example has its own.
var around = []struct{ section, text string }{
	{"system", "system: examples\n"},
	{"gateway", "gateway: {auth: {jwt: {jwks: \"bus:auth.jwks\", issuer: x, audience: x}}}\n"},
	{"services", `services:
  auth: {command: auth, bus: {answers: ["auth.>"]}}
  model: {command: model, bus: {answers: ["model.>"]}}
  tradeflow: {command: tradeflow, secrets: [ADMIN_PASSWORD, OPS_PASSWORD, PARTNER_KEY]}
  mailhog: {command: mailhog}
  shop: {command: shop}
  shop-next: {command: shop}
`},
	{"secrets", "secrets: {ADMIN_PASSWORD: {generate: 24}, OPS_PASSWORD: {generate: 24}, PARTNER_KEY: {generate: 24}, LAB_PASSWORD: {generate: 24}, HOOK_KEY: {env: HOOK_KEY}, BUS_KEY: {env: BUS_KEY}, BUS_USER: {env: BUS_USER}}\n"},
	{"queues", "queues: {orders.*: {}, data.*: {}}\n"},
}

// examples returns the blocks of YAML of a page, each as a whole file.
func examples(page string) (files []string) {
	for {
		_, after, ok := strings.Cut(page, "```yaml\n")
		if !ok {
			return files
		}
		block, rest, _ := strings.Cut(after, "```")
		page = rest
		files = append(files, wholeFile(block))
	}
}

func wholeFile(block string) string {
	var sections []string
	for line := range strings.Lines(block) {
		name, _, ok := strings.Cut(line, ":")
		if ok && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz") == "" {
			sections = append(sections, name)
		}
	}
	if slices.Contains(sections, "system") {
		return block
	}
	if len(sections) == 0 { // routes
		var b strings.Builder
		b.WriteString("routes:\n")
		for line := range strings.Lines(block) {
			b.WriteString("  " + line)
		}
		block, sections = b.String(), []string{"routes"}
	}
	for _, a := range around {
		if !slices.Contains(sections, a.section) {
			block = a.text + block
		}
	}
	return block
}

// TestExamplesAreValid checks every example of a file, or of a part of one, that the
// reference and the README show.
func TestExamplesAreValid(t *testing.T) {
	for page, least := range map[string]int{"README.md": 2, "docs/file.md": 8, "docs/messages.md": 6} {
		text, err := os.ReadFile(filepath.Join("..", "..", page))
		if err != nil {
			t.Fatal(err)
		}
		files := examples(string(text))
		if len(files) < least {
			t.Errorf("%s shows %d examples, want %d", page, len(files), least)
		}
		dir := t.TempDir()
		for _, folder := range []string{"web", "schemas"} {
			if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string]string{"goods.sql": "", "init.sqlite.sql": "", "schemas/data-notification.json": "{}", "schemas/order.json": "{}", "cert.pem": "", "key.pem": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, src := range files {
			if _, err := Parse(FileName, []byte(src), dir, Options{}); err != nil {
				t.Errorf("%s shows\n%s\n%v", page, src, err)
			}
		}
	}
}

// TestSystemsAreValid checks the file of every system that is kept here.
func TestSystemsAreValid(t *testing.T) {
	root := filepath.Join("..", "..")
	files, err := filepath.Glob(filepath.Join(root, "stacks", "*", FileName))
	if err != nil || len(files) == 0 {
		t.Fatalf("no stacks: %v", err)
	}
	for _, file := range append(files, filepath.Join(root, "bench", FileName), filepath.Join(root, "test", "nest", FileName)) {
		if _, err := Load(file, Options{}); err != nil {
			t.Errorf("%s:\n%v", file, err)
		}
	}
}

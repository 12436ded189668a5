package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReference holds docs/file.md against what is read: its file is valid, and it
// names every key, those that are not built yet too.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/file.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "```yaml\n")
	src, _, ok := strings.Cut(after, "```")
	if !ok {
		t.Fatal("docs/file.md has no example")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "init.sqlite.sql"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(FileName, []byte(src), dir, Options{Environment: "development"}); err != nil {
		t.Errorf("the example of docs/file.md:\n%v", err)
	}

	reference, unbuilt, ok := strings.Cut(string(page), "## Not built yet")
	if !ok {
		t.Fatal("docs/file.md does not say what is not built yet")
	}
	for _, s := range []schema{
		fileSchema, gatewaySchema, listenerSchema, tlsSchema, certificateSchema, acmeSchema, internalSchema,
		clientSchema, limitsSchema, maintenanceSchema, rateSchema, corsSchema, headersSchema, authSchema, jwtSchema,
		basicSchema, keysSchema, credentialSchema, forwardSchema, busSchema, serviceSchema, buildSchema,
		updateSchema, poolSchema, serviceBusSchema, healthcheckSchema, secretSchema, databaseSchema, routeSchema,
		filesSchema, redirectSchema, queueSchema, busUserSchema, outsideSchema, urlSchema, signatureSchema,
	} {
		for _, key := range s.keys {
			if !strings.Contains(reference, "`"+key+"`") && !strings.Contains(reference, "."+key+"`") &&
				!strings.Contains(reference, "`"+key+".") && !strings.Contains(reference, "\n## "+key+"\n") {
				t.Errorf("docs/file.md does not name %s of %s", key, s.what)
			}
		}
		for key := range s.unbuilt {
			inWords := []string{"test", "command", "backup", "backups"}
			if !strings.Contains(unbuilt, "`"+key+"`") && !slices.Contains(inWords, key) {
				t.Errorf("docs/file.md does not say that %s of %s is not built yet", key, s.what)
			}
		}
	}
}

package system

import (
	"cmp"
	"slices"
	"strings"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	fileSchema = schema{
		what: "the file", empty: true,
		keys: []string{"system", "gateway", "bus", "services", "routes", "secrets", "databases", "queues", "types", "environments"},
		unbuilt: map[string]string{
			"jobs": forNow, "schedules": forNow, "channels": forNow,
			"alerts": forNow, "profiles": forNow, "nodes": forNow,
		},
	}
	secretSchema   = schema{what: "a secret", keys: []string{"generate", "env", "file"}}
	databaseSchema = schema{
		what: "a database", keys: []string{"engine", "init", "owner"},
		unbuilt: map[string]string{"url": forNow, "backup": forNow, "backups": forNow},
	}
)

// read reads the whole document.
func (r *reader) read(doc *document.Node) {
	top := r.fields(doc, fileSchema)
	if n := top["system"]; n == nil {
		r.rec.add(document.Place{Line: 1, Column: 1}, "system", missingKey, "begin with system: NAME")
	} else if name, ok := r.text(n); ok && r.name(n.At, n.Path, name) {
		r.sys.Name = name
	}
	r.readSecrets(top["secrets"])
	r.readGateway(top["gateway"])
	r.readBus(top["bus"])
	r.readDatabases(top["databases"])
	r.readTypes(top["types"])
	r.readQueues(top["queues"])
	r.readServices(top["services"])
	r.readRoutes(top["routes"])
	r.check(doc)

	slices.SortFunc(r.sys.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.sys.Secrets, func(a, b Secret) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.sys.Databases, func(a, b Database) int { return cmp.Compare(a.Name, b.Name) })
}

// address reads host:port into out and returns the host.
func (r *reader) address(n *document.Node, out *string) (host string, ok bool) {
	s, ok := r.text(n)
	if !ok {
		return "", false
	}
	host, advice, ok := notation.CheckAddress(s)
	if !ok {
		r.rec.add(n.At, n.Path, badAddress, wording.Quote(s), advice)
		return "", false
	}
	*out = s
	return host, true
}

func (r *reader) readSecrets(n *document.Node) {
	for _, m := range r.entries(n, "secrets by name") {
		r.secrets[m.Key] = m
		if !notation.IsVariable(m.Key) || m.Key != strings.ToUpper(m.Key) || m.Key[0] == '_' {
			advice := ""
			if up := strings.ReplaceAll(strings.ToUpper(m.Key), "-", "_"); notation.IsVariable(up) && up[0] != '_' {
				advice = "write " + up
			}
			r.rec.add(m.KeyAt, m.Path, badName, wording.Quote(m.Key), "a name of capitals, digits and _ that begins with a letter", advice)
		} else if by, ok := taken(m.Key); ok {
			r.rec.add(m.KeyAt, m.Path, takenVariable, by, "choose another name")
		}
		f := r.fields(m, secretSchema)
		out := Secret{Name: m.Key}
		if !r.exactlyOne(m, "generate, env and file", f, "generate", "env", "file") {
			continue
		}
		out.Generate = r.int(f["generate"], 0, 16, 128, "")
		if n := f["env"]; n != nil {
			if s, ok := r.text(n); ok && !notation.IsVariable(s) {
				r.rec.add(n.At, n.Path, badVariable)
			} else if ok {
				out.Env = s
			}
		}
		if n := f["file"]; n != nil {
			out.File, _ = r.path(n)
		}
		r.sys.Secrets = append(r.sys.Secrets, out)
	}
}

func (r *reader) readDatabases(n *document.Node) {
	for _, m := range r.entries(n, "databases by name") {
		r.databases[m.Key] = m
		r.name(m.KeyAt, m.Path, m.Key)
		f := r.fields(m, databaseSchema)
		if m.Kind != document.Mapping {
			continue
		}
		out := Database{Name: m.Key}
		switch engine := f["engine"]; {
		case engine == nil:
			r.missing(m, databaseSchema, "engine", "write engine: sqlite")
		case slices.Contains([]string{"mysql", "mariadb", "postgres", "postgresql"}, strings.ToLower(engine.Text)):
			r.rec.add(engine.At, engine.Path, notBuilt, "use sqlite for now")
		default:
			out.Engine = r.oneOf(engine, "sqlite", "sqlite")
		}
		if n := f["init"]; n != nil {
			out.Init = r.file(n, false)
		}
		if n := f["owner"]; n == nil {
			r.missing(m, databaseSchema, "owner", "name the one service that opens it; the others ask that service over the bus")
		} else {
			out.Owner, _ = r.text(n)
			r.owners[m.Key] = out.Owner
		}
		r.sys.Databases = append(r.sys.Databases, out)
	}
}

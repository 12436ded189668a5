package system

import (
	"cmp"
	"slices"
	"strings"
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
func (r *reader) read(doc *node) {
	top := r.fields(doc, fileSchema)
	if n := top["system"]; n == nil {
		r.rec.add(place{1, 1}, "system", missingKey, "begin with system: NAME")
	} else if name, ok := r.text(n); ok && r.name(n.at, n.path, name) {
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
func (r *reader) address(n *node, out *string) (host string, ok bool) {
	s, ok := r.text(n)
	if !ok {
		return "", false
	}
	host, advice, ok := checkAddress(s)
	if !ok {
		r.rec.add(n.at, n.path, badAddress, quote(s), advice)
		return "", false
	}
	*out = s
	return host, true
}

func (r *reader) readSecrets(n *node) {
	for _, m := range r.entries(n, "secrets by name") {
		r.secrets[m.key] = m
		if !variable(m.key) || m.key != strings.ToUpper(m.key) || m.key[0] == '_' {
			advice := ""
			if up := strings.ReplaceAll(strings.ToUpper(m.key), "-", "_"); variable(up) && up[0] != '_' {
				advice = "write " + up
			}
			r.rec.add(m.keyAt, m.path, badName, quote(m.key), "a name of capitals, digits and _ that begins with a letter", advice)
		} else if by, ok := taken(m.key); ok {
			r.rec.add(m.keyAt, m.path, takenVariable, by, "choose another name")
		}
		f := r.fields(m, secretSchema)
		out := Secret{Name: m.key}
		if !r.exactlyOne(m, "generate, env and file", f, "generate", "env", "file") {
			continue
		}
		out.Generate = r.int(f["generate"], 0, 16, 128, "")
		if n := f["env"]; n != nil {
			if s, ok := r.text(n); ok && !variable(s) {
				r.rec.add(n.at, n.path, badVariable)
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

func (r *reader) readDatabases(n *node) {
	for _, m := range r.entries(n, "databases by name") {
		r.databases[m.key] = m
		r.name(m.keyAt, m.path, m.key)
		f := r.fields(m, databaseSchema)
		if m.kind != mapping {
			continue
		}
		out := Database{Name: m.key}
		switch engine := f["engine"]; {
		case engine == nil:
			r.missing(m, databaseSchema, "engine", "write engine: sqlite")
		case slices.Contains([]string{"mysql", "mariadb", "postgres", "postgresql"}, strings.ToLower(engine.text)):
			r.rec.add(engine.at, engine.path, notBuilt, "use sqlite for now")
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
			r.owners[m.key] = out.Owner
		}
		r.sys.Databases = append(r.sys.Databases, out)
	}
}

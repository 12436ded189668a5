package system

import (
	"cmp"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	fileSchema = schema{
		what: "the file", empty: true,
		keys: []string{"system", "gateway", "bus", "services", "routes", "secrets", "databases", "environments"},
		unbuilt: map[string]string{
			"queues": forNow, "types": forNow, "jobs": forNow, "schedules": forNow, "channels": forNow,
			"alerts": forNow, "profiles": forNow, "nodes": forNow,
		},
	}
	gatewaySchema = schema{
		what: "gateway", keys: []string{"listen", "limits", "auth"},
		unbuilt: map[string]string{
			"tls":             "put a server that ends TLS in front for now",
			"trusted_proxies": forNow, "rate": forNow, "allow": forNow, "acme": forNow,
		},
	}
	limitsSchema = schema{what: "limits", keys: []string{"body", "header"}}
	authSchema   = schema{what: "gateway.auth", keys: []string{"jwt"}}
	jwtSchema    = schema{
		what: "gateway.auth.jwt",
		keys: []string{"jwks", "algorithms", "issuer", "audience", "roles_claim", "leeway"},
	}
	busSchema = schema{
		what: "bus", keys: []string{"listen"},
		unbuilt: map[string]string{"tls": forNow, "cluster": forNow, "url": forNow, "signing_key": forNow},
	}
	serviceSchema = schema{
		what: "a service",
		keys: []string{
			"build", "command", "working_dir", "replicas", "environment", "secrets", "databases", "bus",
			"healthcheck", "update", "stop_grace_period",
		},
		unbuilt: map[string]string{
			"image":    "run it as a process for now: command",
			"external": forNow, "profiles": forNow, "user": forNow, "volumes": forNow, "ports": "the service listens on PORT, and routes lead to it",
			"env_file": "write the variables under environment, and what is to be kept secret under secrets",
		},
	}
	buildSchema       = schema{what: "build", keys: []string{"command"}, unbuilt: map[string]string{"context": forNow, "dockerfile": forNow}}
	updateSchema      = schema{what: "update", keys: []string{"order"}}
	serviceBusSchema  = schema{what: "a service's bus", keys: []string{"group", "format", "inbox", "answers", "asks", "publishes", "subscribes"}}
	healthcheckSchema = schema{
		what: "a healthcheck", keys: []string{"http", "tcp", "interval", "timeout", "retries", "start_period"},
		unbuilt: map[string]string{"test": "use http or tcp", "command": "use http or tcp"},
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
	r.readGateway(top["gateway"])
	r.sys.Bus = Bus{Listen: "127.0.0.1:0"}
	if n := r.fields(top["bus"], busSchema)["listen"]; n != nil {
		if host, ok := r.address(n, &r.sys.Bus.Listen); ok && !loopback(host) {
			r.rec.add(n.at, n.path, notLoopback, quote(n.text))
		}
	}
	r.readSecrets(top["secrets"])
	r.readDatabases(top["databases"])
	r.readServices(top["services"])
	r.readRoutes(top["routes"])
	r.check(doc)

	slices.SortFunc(r.sys.Services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.sys.Routes, func(a, b Route) int { return cmp.Compare(a.Key, b.Key) })
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

const (
	defaultBody   = 10 << 20
	defaultHeader = 32 << 10
	mostBody      = 64 << 30
)

func (r *reader) readGateway(n *node) {
	g := r.fields(n, gatewaySchema)
	out := &r.sys.Gateway
	*out = Gateway{Listeners: []Listener{{Address: "127.0.0.1:8080"}}, Limits: Limits{Body: defaultBody, Header: defaultHeader}}
	if n := g["listen"]; n != nil {
		r.address(n, &out.Listeners[0].Address)
	}
	limits := r.fields(g["limits"], limitsSchema)
	out.Limits.Body = r.size(limits["body"], defaultBody, 1, mostBody)
	out.Limits.Header = r.size(limits["header"], defaultHeader, 1<<10, 1<<20)
	if jwt := r.fields(g["auth"], authSchema)["jwt"]; jwt != nil {
		out.Auth.JWT = r.readJWT(jwt)
	}
}

func (r *reader) readJWT(n *node) *JWT {
	f := r.fields(n, jwtSchema)
	out := &JWT{Algorithms: []string{"EdDSA"}, RolesClaim: "roles"}
	for key, to := range map[string]*string{"issuer": &out.Issuer, "audience": &out.Audience} {
		if f[key] == nil {
			r.missing(n, jwtSchema, key, "a token is accepted only from the "+key+" that is named here")
			continue
		}
		*to = r.notEmpty(f[key], "write what the tokens hold")
	}
	if claim := f["roles_claim"]; claim != nil {
		out.RolesClaim = r.notEmpty(claim, "name the claim that lists the roles, or remove the key")
	}
	if algorithms := f["algorithms"]; algorithms != nil {
		known := []string{"EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		out.Algorithms = nil
		for _, item := range r.texts(algorithms, false) {
			if strings.HasPrefix(item.text, "HS") || item.text == "none" {
				r.rec.add(item.at, item.path, notOneOf, enumerate(known, "or"), quote(item.text),
					"whoever can check such a token can make one")
				continue
			}
			out.Algorithms = append(out.Algorithms, r.oneOf(item, "", known...))
		}
		if algorithms.kind == list && len(algorithms.items) == 0 {
			r.rec.add(algorithms.at, algorithms.path, emptyValue, "name an algorithm, or remove the key for EdDSA")
		}
	}
	out.Leeway = r.duration(f["leeway"], 30*time.Second, 0, 10*time.Minute)
	jwks := f["jwks"]
	if jwks == nil {
		r.missing(n, jwtSchema, "jwks", "write bus:SUBJECT or file:PATH, where the keys are that verify tokens")
		return out
	}
	s, ok := r.text(jwks)
	if !ok {
		return out
	}
	if subject, ok := strings.CutPrefix(s, "bus:"); ok {
		if err := checkSubject(subject, false); err != nil {
			r.rec.add(jwks.at, jwks.path, badSubject, err)
			return out
		}
		out.JWKS = s
	} else if path, ok := strings.CutPrefix(s, "file:"); ok {
		file := *jwks
		file.text = path
		out.JWKS = "file:" + r.file(&file, false)
	} else {
		r.rec.add(jwks.at, jwks.path, badJWKS, quote(s))
	}
	return out
}

// notEmpty reads a text of at least one character.
func (r *reader) notEmpty(n *node, advice string) string {
	s, ok := r.text(n)
	if ok && strings.TrimSpace(s) == "" {
		r.rec.add(n.at, n.path, emptyValue, advice)
	}
	return s
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

// exactlyOne tells if not exactly one of the keys is there.
func (r *reader) exactlyOne(n *node, what string, f map[string]*node, keys ...string) bool {
	if n.kind != mapping {
		return false
	}
	var have []string
	for _, k := range keys {
		if f[k] != nil {
			have = append(have, k)
		}
	}
	switch {
	case len(have) == 1:
		return true
	case len(have) == 0 && len(f) < len(n.items):
		// A key that was told to be wrong may have been meant as one of them.
	case len(have) == 0:
		r.rec.add(n.keyAt, n.path, exactlyOne, what, "none", "")
	default:
		r.rec.add(n.keyAt, n.path, exactlyOne, what, enumerate(have, "and"),
			"an environment that replaces one by another sets the former to null")
	}
	return false
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

// ownNames are no names of services: on the bus they stand where a service's
// name would.
var ownNames = []string{"fairlead", "gateway", "operator"}

func (r *reader) readServices(n *node) {
	for _, m := range r.entries(n, "services by name") {
		r.services[m.key] = m
		if r.name(m.keyAt, m.path, m.key) && slices.Contains(ownNames, m.key) {
			r.rec.add(m.keyAt, m.path, takenName)
		}
		if s, ok := r.readService(m); ok {
			r.sys.Services = append(r.sys.Services, s)
		}
	}
}

func (r *reader) readService(n *node) (Service, bool) {
	f := r.fields(n, serviceSchema)
	out := Service{Name: n.key, WorkingDir: r.dir, UpdateOrder: StartFirst}
	if n.kind != mapping {
		return out, false
	}
	if build := f["build"]; build != nil && build.scalar() {
		r.wrong(build, "a map of command", "write build: {command: ...}")
	} else if build != nil {
		if command := r.fields(build, buildSchema)["command"]; command != nil {
			out.Build = r.notEmpty(command, "write a command line, or remove build")
		} else {
			r.missing(build, buildSchema, "command", "a shell runs it; $OUT is the folder for what it builds")
		}
	}
	if command := f["command"]; command == nil {
		r.missing(n, serviceSchema, "command", "name the program that runs, and its arguments", "image", "external")
	} else {
		out.Command = r.command(command)
	}
	if dir := f["working_dir"]; dir != nil {
		out.WorkingDir = r.file(dir, true)
	}
	out.Replicas = r.int(f["replicas"], 1, 0, 64, "start a second node for more")
	if order := r.fields(f["update"], updateSchema)["order"]; order != nil {
		out.UpdateOrder = UpdateOrder(r.oneOf(order, string(StartFirst), string(StartFirst), string(StopFirst)))
	}
	out.StopGracePeriod = r.duration(f["stop_grace_period"], 10*time.Second, 0, time.Hour)
	r.readGrants(f, &out)
	if bus := f["bus"]; bus != nil {
		out.Bus = r.readServiceBus(out.Name, bus)
	}
	out.Healthcheck = r.readHealthcheck(f["healthcheck"])
	out.HTTP = out.Healthcheck.HTTP != "" || out.Healthcheck.TCP
	return out, true
}

// command reads a command line or a list of arguments.
func (r *reader) command(n *node) []string {
	var args []string
	if n.kind == list {
		for _, item := range n.items {
			if s, ok := r.text(item); ok {
				args = append(args, s)
			}
		}
		if len(args) < len(n.items) {
			return nil
		}
	} else {
		s, ok := r.text(n)
		if !ok {
			return nil
		}
		var err error
		if args, err = splitCommand(s); err != nil {
			r.rec.add(n.at, n.path, badCommand, err)
			return nil
		}
	}
	for _, a := range args {
		if strings.Contains(a, "\x00") {
			r.rec.add(n.at, n.path, badCommand, "it holds a zero byte")
			return nil
		}
	}
	if len(args) == 0 || args[0] == "" {
		r.rec.add(n.at, n.path, emptyValue, "name the program that runs, and its arguments")
		return nil
	}
	return args
}

// taken says who sets a variable that the file may not set.
func taken(name string) (string, bool) {
	switch {
	case name == "PORT":
		return "fairlead: the port of each instance", true
	case strings.HasPrefix(name, "FAIRLEAD_"):
		return "fairlead", true
	case name == "NATS_URL" || name == "NATS_USER" || name == "NATS_PASSWORD" || name == "NATS_INBOX_PREFIX":
		return "fairlead: the credentials of each instance", true
	case name == "DATABASE_URL" || strings.HasPrefix(name, "DATABASE_URL_"):
		return "fairlead: the service's databases", true
	}
	return "", false
}

// readGrants reads what an instance is given: variables, secrets and databases.
func (r *reader) readGrants(f map[string]*node, out *Service) {
	secretOf := map[string]string{}
	for _, item := range r.texts(f["secrets"], false) {
		if r.secrets[item.text] == nil {
			r.refer("secrets", item.at, item.path, unknownSecret, quote(item.text), suggest(item.text, names(r.secrets), "declare it under secrets"))
			continue
		}
		for _, name := range []string{item.text, item.text + "_FILE"} {
			if other, ok := secretOf[name]; ok {
				r.rec.add(item.at, item.path, takenVariable, "the secret "+other+" as "+name, "rename one of the two secrets")
				break
			}
			secretOf[name] = item.text
		}
		out.Secrets = append(out.Secrets, item.text)
	}
	slices.Sort(out.Secrets)

	for _, item := range r.texts(f["databases"], false) {
		if r.databases[item.text] == nil {
			r.refer("databases", item.at, item.path, unknownDatabase, quote(item.text), suggest(item.text, names(r.databases), "declare it under databases"))
			continue
		}
		if owner, ok := r.owners[item.text]; ok && owner != out.Name {
			r.rec.add(item.at, item.path, notOwner, item.text, owner)
			continue
		}
		out.Databases = append(out.Databases, item.text)
	}
	slices.Sort(out.Databases)

	environment := f["environment"]
	if environment != nil && environment.kind == list {
		r.wrong(environment, "a map of variables", "write {NAME: value}")
		return
	}
	for _, m := range r.entriesWith(environment, "variables by name", `write "" for an empty one, or remove the key`) {
		s, ok := r.text(m)
		if !ok {
			continue
		}
		if !variable(m.key) {
			r.rec.add(m.keyAt, m.path, badVariable)
			continue
		}
		if by, ok := taken(m.key); ok {
			r.rec.add(m.keyAt, m.path, takenVariable, by, "remove it, or choose another name")
			continue
		}
		if secret, ok := secretOf[m.key]; ok {
			r.rec.add(m.keyAt, m.path, takenVariable, "the secret "+secret, "remove one of the two")
			continue
		}
		if strings.Contains(s, "\x00") {
			r.wrong(m, "text without zero bytes", "")
			continue
		}
		if out.Environment == nil {
			out.Environment = map[string]string{}
		}
		out.Environment[m.key] = s
	}
}

func names(m map[string]*node) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (r *reader) readServiceBus(service string, n *node) *ServiceBus {
	f := r.fields(n, serviceBusSchema)
	out := &ServiceBus{}
	if group := f["group"]; group != nil {
		if s, ok := r.text(group); ok && !wordOf(s, "._-") {
			r.rec.add(group.at, group.path, badName, quote(s), "a name of letters, digits and . _ -, at most 64", "")
		} else if ok {
			out.Group = s
		}
	}
	out.Format = Format(r.oneOf(f["format"], string(Raw), string(Raw), string(Nest)))
	out.SharedInbox = r.oneOf(f["inbox"], "private", "private", "shared") == "shared"
	for key, to := range map[string]*[]string{
		"answers": &out.Answers, "asks": &out.Asks, "publishes": &out.Publishes, "subscribes": &out.Subscribes,
	} {
		for _, item := range r.texts(r.patternsAsText(f[key]), false) {
			if s, ok := r.subject(item, key == "asks"); ok {
				*to = append(*to, s)
			}
		}
	}
	for _, s := range out.Answers {
		r.answers = append(r.answers, answer{service, s})
	}
	return out
}

// patternsAsText makes JSON text of the NestJS patterns that stand as maps in a list
// of subjects.
func (r *reader) patternsAsText(n *node) *node {
	if n == nil || n.kind != list || !slices.ContainsFunc(n.items, func(item *node) bool { return item.kind == mapping }) {
		return n
	}
	out := *n
	out.items = nil
	for _, item := range n.items {
		if item.kind == mapping {
			s, err := nestPattern(plainMap(item))
			if err != nil {
				r.rec.add(item.at, item.path, badPattern, err)
				continue
			}
			as := *item
			as.kind, as.text, as.items = text, s, nil
			item = &as
		}
		out.items = append(out.items, item)
	}
	return &out
}

// plain returns a node as plain Go data: maps, lists, text, int64, float64, bool, nil.
func plain(n *node) any {
	switch n.kind {
	case mapping:
		return plainMap(n)
	case list:
		out := make([]any, 0, len(n.items))
		for _, item := range n.items {
			out = append(out, plain(item))
		}
		return out
	case text:
		return n.text
	case boolean:
		return n.text == "true"
	case integer:
		if v, err := strconv.ParseInt(strings.ReplaceAll(n.text, "_", ""), 0, 64); err == nil {
			return v
		}
		return floatOr(n.text)
	case number:
		return floatOr(n.text)
	case null:
	}
	return nil
}

func plainMap(n *node) map[string]any {
	out := make(map[string]any, len(n.items))
	for _, m := range n.items {
		out[m.key] = plain(m)
	}
	return out
}

// floatOr reads a number; what is none for JSON, as .inf, stays text.
func floatOr(s string) any {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		return s
	}
	return v
}

func (r *reader) readHealthcheck(n *node) Healthcheck {
	f := r.fields(n, healthcheckSchema)
	out := Healthcheck{
		Interval:    r.duration(f["interval"], 2*time.Second, 100*time.Millisecond, time.Hour),
		Timeout:     r.duration(f["timeout"], 2*time.Second, 10*time.Millisecond, 5*time.Minute),
		Retries:     r.int(f["retries"], 3, 1, 100, ""),
		StartPeriod: r.duration(f["start_period"], time.Minute, 100*time.Millisecond, time.Hour),
		TCP:         r.bool(f["tcp"]),
	}
	if n := f["http"]; n != nil {
		s, ok := r.text(n)
		switch {
		case !ok:
		case !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\r\n#") || len(s) > 1024:
			r.rec.add(n.at, n.path, badPath, "must begin with /", "name the path to ask, as in /healthz")
		default:
			out.HTTP = s
		}
	}
	return out
}

// absolute returns path, which is relative to dir unless it is absolute.
func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

package system

import (
	"net"
	"slices"
	"strings"
	"time"

	"fairlead/internal/system/document"
	"fairlead/internal/system/notation"
	"fairlead/internal/system/wording"
)

var (
	serviceSchema = schema{
		what: "a service",
		keys: []string{
			"build", "command", "working_dir", "replicas", "environment", "secrets", "databases", "bus",
			"healthcheck", "update", "stop_grace_period", "external", "pool", "watch",
		},
		unbuilt: map[string]string{
			"image":    "run it as a process for now: command",
			"profiles": forNow, "user": forNow, "volumes": forNow, "ports": "the service listens on PORT, and routes lead to it",
			"env_file": "write the variables under environment, and what is to be kept secret under secrets",
		},
	}
	buildSchema       = schema{what: "build", keys: []string{"command"}, unbuilt: map[string]string{"context": forNow, "dockerfile": forNow}}
	updateSchema      = schema{what: "update", keys: []string{"order", "drain"}}
	healthcheckSchema = schema{
		what: "a healthcheck", keys: []string{"http", "tcp", "interval", "timeout", "retries", "start_period"},
		unbuilt: map[string]string{"test": "use http or tcp", "command": "use http or tcp"},
	}
	poolSchema = schema{
		what: "a pool",
		keys: []string{
			"balance", "hash", "protocol", "slow_start", "concurrency", "queue", "queue_time", "eject", "eject_time",
		},
	}
)

// ofProcesses are the keys of a service that say how its processes run.
var ofProcesses = []string{
	"build", "command", "working_dir", "replicas", "environment", "secrets", "databases", "bus", "stop_grace_period", "watch",
}

// MaxReplicas is the most instances that a service may have.
const MaxReplicas = 64

const defaultDrain = 30 * time.Second

// ownNames are no names of services: on the bus they stand where a service's
// name would.
var ownNames = []string{"fairlead", "gateway", "operator"}

func (r *reader) readServices(n *document.Node) {
	for _, m := range r.entries(n, "services by name") {
		r.services[m.Key] = m
		if r.name(m.KeyAt, m.Path, m.Key) && slices.Contains(ownNames, m.Key) {
			r.rec.add(m.KeyAt, m.Path, takenName)
		}
		if s, ok := r.readService(m); ok {
			r.sys.Services = append(r.sys.Services, s)
		}
	}
}

func (r *reader) readService(n *document.Node) (Service, bool) {
	f := r.fields(n, serviceSchema)
	out := Service{Name: n.Key, WorkingDir: r.dir, UpdateOrder: StartFirst}
	if n.Kind != document.Mapping {
		return out, false
	}
	out.Healthcheck = r.readHealthcheck(f["healthcheck"])
	update := r.fields(f["update"], updateSchema)
	out.Drain = r.duration(update["drain"], defaultDrain, 0, 24*time.Hour)
	out.Pool = r.readPool(f["pool"])
	if f["external"] != nil {
		return r.readExternal(f, update, out), true
	}
	if build := f["build"]; build != nil && build.Scalar() {
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
	out.Watch = r.readWatch(f["watch"], out.WorkingDir)
	out.Replicas = r.int(f["replicas"], 1, 0, MaxReplicas, "start a second node for more")
	if order := update["order"]; order != nil {
		out.UpdateOrder = UpdateOrder(r.oneOf(order, string(StartFirst), string(StartFirst), string(StopFirst)))
	}
	out.StopGracePeriod = r.duration(f["stop_grace_period"], 10*time.Second, 0, time.Hour)
	r.readGrants(f, &out)
	if bus := f["bus"]; bus != nil {
		out.Bus = r.readServiceBus(out.Name, bus)
	}
	return out, true
}

// readExternal reads a service that something else runs.
func (r *reader) readExternal(f, update map[string]*document.Node, out Service) Service {
	const advice = "something else runs this service: remove it, or remove external"
	for _, key := range ofProcesses {
		if n := f[key]; n != nil {
			r.rec.add(n.KeyAt, n.Path, misplaced, "in a service with external", advice)
		}
	}
	if n := update["order"]; n != nil {
		r.rec.add(n.KeyAt, n.Path, misplaced, "in a service with external", advice)
	}
	out.WorkingDir, out.UpdateOrder = "", ""
	n := f["external"]
	for _, item := range r.texts(n, false) {
		var address string
		host, ok := r.address(item, &address)
		if _, port, _ := net.SplitHostPort(address); ok && (host == "" || port == "0") {
			r.rec.add(item.At, item.Path, badAddress, wording.Quote(item.Text), "name the host and the port that are asked")
			continue
		}
		out.External = append(out.External, address)
	}
	if n.Kind == document.List && len(n.Items) == 0 {
		r.rec.add(n.At, n.Path, emptyValue, `name where it can be reached, as in ["10.0.3.4:8080"]`)
	}
	return out
}

// readWatch reads the folders and files whose change rebuilds a service.
func (r *reader) readWatch(n *document.Node, def string) []string {
	if n == nil {
		return []string{def}
	}
	var out []string
	for _, item := range r.texts(n, true) {
		path, ok := r.path(item)
		if !ok {
			continue
		}
		if _, err := r.stat(path); err != nil {
			r.rec.add(item.At, item.Path, notFound, wording.Quote(item.Text), "make it, or correct the path; it starts at the folder of this file")
			continue
		}
		out = append(out, path)
	}
	return out
}

func (r *reader) readPool(n *document.Node) Pool {
	f := r.fields(n, poolSchema)
	out := Pool{
		Balance: Balance(r.oneOf(f["balance"], string(LeastRequests),
			string(LeastRequests), string(RoundRobin), string(TwoChoices), string(HashBalance))),
		Protocol:    Protocol(r.oneOf(f["protocol"], string(HTTP1), string(HTTP1), string(H2C))),
		SlowStart:   r.duration(f["slow_start"], 0, 0, time.Hour),
		Concurrency: r.count(f["concurrency"], 0),
		QueueTime:   r.duration(f["queue_time"], 5*time.Second, time.Millisecond, 5*time.Minute),
		Eject:       r.int(f["eject"], 5, 0, 1000, ""),
		EjectTime:   r.duration(f["eject_time"], 10*time.Second, 100*time.Millisecond, time.Hour),
	}
	out.Queue = r.count(f["queue"], out.Concurrency)
	if out.Balance == HashBalance {
		out.Hash = r.hashKey(f["hash"], "client", "client", "path")
	} else if n := f["hash"]; n != nil {
		r.rec.add(n.KeyAt, n.Path, misplaced, "in a pool that does not balance by hash", "add balance: hash, or remove it")
	}
	for _, key := range []string{"queue", "queue_time"} {
		c := f["concurrency"] // one that is wrong is told already
		if n := f[key]; n != nil && (c == nil || c.Text == "0") && !r.meant["concurrency"] {
			r.rec.add(n.KeyAt, n.Path, misplaced, "in a pool without concurrency", "nothing waits there: add concurrency, or remove it")
		}
	}
	return out
}

// hashKey reads one of some words, or header:NAME, or cookie:NAME.
func (r *reader) hashKey(n *document.Node, def HashKey, words ...string) HashKey {
	s, ok := r.text(n)
	if !ok {
		return def
	}
	of, name, named := strings.Cut(s, ":")
	switch {
	case !named && slices.Contains(words, s):
	case named && of == "header" && notation.IsToken(name):
	case named && of == "cookie" && notation.IsToken(name):
	default:
		advice := ""
		if best, ok := wording.Nearest(s, words); ok {
			advice = "did you mean " + best + "?"
		}
		r.rec.add(n.At, n.Path, notOneOf, wording.Enumerate(append(words, "header:NAME", "cookie:NAME"), "or"), wording.Quote(s), advice)
		return def
	}
	return HashKey(s)
}

// command reads a command line or a list of arguments.
func (r *reader) command(n *document.Node) []string {
	var args []string
	if n.Kind == document.List {
		for _, item := range n.Items {
			if s, ok := r.text(item); ok {
				args = append(args, s)
			}
		}
		if len(args) < len(n.Items) {
			return nil
		}
	} else {
		s, ok := r.text(n)
		if !ok {
			return nil
		}
		var err error
		if args, err = notation.SplitCommand(s); err != nil {
			r.rec.add(n.At, n.Path, badCommand, err)
			return nil
		}
	}
	for _, a := range args {
		if strings.Contains(a, "\x00") {
			r.rec.add(n.At, n.Path, badCommand, "it holds a zero byte")
			return nil
		}
	}
	if len(args) == 0 || args[0] == "" {
		r.rec.add(n.At, n.Path, emptyValue, "name the program that runs, and its arguments")
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
func (r *reader) readGrants(f map[string]*document.Node, out *Service) {
	secretOf := map[string]string{}
	for _, item := range r.texts(f["secrets"], false) {
		if r.secrets[item.Text] == nil {
			r.refer("secrets", item.At, item.Path, unknownSecret, wording.Quote(item.Text), wording.Suggest(item.Text, names(r.secrets), "declare it under secrets"))
			continue
		}
		for _, name := range []string{item.Text, item.Text + "_FILE"} {
			if other, ok := secretOf[name]; ok {
				r.rec.add(item.At, item.Path, takenVariable, "the secret "+other+" as "+name, "rename one of the two secrets")
				break
			}
			secretOf[name] = item.Text
		}
		out.Secrets = append(out.Secrets, item.Text)
	}
	slices.Sort(out.Secrets)

	for _, item := range r.texts(f["databases"], false) {
		if r.databases[item.Text] == nil {
			r.refer("databases", item.At, item.Path, unknownDatabase, wording.Quote(item.Text), wording.Suggest(item.Text, names(r.databases), "declare it under databases"))
			continue
		}
		if owner, ok := r.owners[item.Text]; ok && owner != out.Name {
			r.rec.add(item.At, item.Path, notOwner, item.Text, owner)
			continue
		}
		out.Databases = append(out.Databases, item.Text)
	}
	slices.Sort(out.Databases)

	environment := f["environment"]
	if environment != nil && environment.Kind == document.List {
		r.wrong(environment, "a map of variables", "write {NAME: value}")
		return
	}
	for _, m := range r.entriesWith(environment, "variables by name", `write "" for an empty one, or remove the key`) {
		s, ok := r.text(m)
		if !ok {
			continue
		}
		if !notation.IsVariable(m.Key) {
			r.rec.add(m.KeyAt, m.Path, badVariable)
			continue
		}
		if by, ok := taken(m.Key); ok {
			r.rec.add(m.KeyAt, m.Path, takenVariable, by, "remove it, or choose another name")
			continue
		}
		if secret, ok := secretOf[m.Key]; ok {
			r.rec.add(m.KeyAt, m.Path, takenVariable, "the secret "+secret, "remove one of the two")
			continue
		}
		if strings.Contains(s, "\x00") {
			r.wrong(m, "text without zero bytes", "")
			continue
		}
		if out.Environment == nil {
			out.Environment = map[string]string{}
		}
		out.Environment[m.Key] = s
	}
}

func names(m map[string]*document.Node) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (r *reader) readHealthcheck(n *document.Node) Healthcheck {
	f := r.fields(n, healthcheckSchema)
	out := Healthcheck{
		Interval:    r.duration(f["interval"], 2*time.Second, 100*time.Millisecond, time.Hour),
		Timeout:     r.duration(f["timeout"], 2*time.Second, 10*time.Millisecond, 5*time.Minute),
		Retries:     r.int(f["retries"], 3, 1, 100, ""),
		StartPeriod: r.duration(f["start_period"], time.Minute, 100*time.Millisecond, time.Hour),
		TCP:         r.bool(f["tcp"]),
	}
	out.HTTP = r.urlPath(f["http"], "")
	return out
}

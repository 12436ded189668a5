package system

import "time"

// System is everything one fairlead.yaml describes, after the chosen environment
// was merged in, all defaults were set and the whole was found valid. It is
// plain data: nothing in it is changed after [Load] returned it.
type System struct {
	Name        string // system: the name, [a-z][a-z0-9-]{0,62}
	File        string // absolute path of the file it was read from
	Dir         string // absolute folder of that file; relative paths start here
	Environment string // the environment that was merged in, "" for none

	// Environments are the names of all that the file declares, sorted.
	Environments []string

	Gateway   Gateway
	Bus       Bus
	Services  []Service  // sorted by name
	Routes    []Route    // sorted by key
	Secrets   []Secret   // sorted by name
	Databases []Database // sorted by name

	// Source is the text of the file, kept so that a revision can be applied again.
	Source []byte

	// flat is the merged document as path -> value, for Diff.
	flat map[string]string
}

// Gateway is the one door.
type Gateway struct {
	Listen string // host:port, default "127.0.0.1:8080"
	Limits Limits // defaults for every route: body 10 MiB, header 32 KiB
	Auth   Auth
}

// Limits bound what a client may send. Zero means "as the gateway says".
type Limits struct {
	Body   int64 // bytes of a request's body
	Header int64 // bytes of a request's head; gateway only
}

// Auth says how the gateway knows a user.
type Auth struct {
	JWT *JWT // nil: no tokens are accepted, routes with a role are an error
}

// JWT says which bearer tokens the gateway accepts.
type JWT struct {
	JWKS       string        // "bus:<subject>" asks the bus, "file:<path>" reads a file
	Algorithms []string      // of EdDSA, ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384, PS512; default EdDSA
	Issuer     string        // required "iss"
	Audience   string        // required in "aud"
	RolesClaim string        // claim that lists the roles, default "roles"
	Leeway     time.Duration // clock skew allowed, default 30 s
}

// Bus is the embedded NATS JetStream server.
type Bus struct {
	Listen string // loopback host:port, default "127.0.0.1:0"
}

// UpdateOrder says whether a new instance starts before the old one stops.
type UpdateOrder string

// The update orders.
const (
	StartFirst UpdateOrder = "start-first"
	StopFirst  UpdateOrder = "stop-first"
)

// Service is something that runs.
type Service struct {
	Name            string // [a-z][a-z0-9-]{0,62}
	Build           string // shell command line, "" for none; $OUT is the service's folder in the revision
	Command         []string
	WorkingDir      string // absolute, default the system's Dir
	Replicas        int    // 0 to 64, default 1
	Environment     map[string]string
	Secrets         []string    // sorted
	Databases       []string    // sorted
	Bus             *ServiceBus // nil: no bus section, no credentials
	Healthcheck     Healthcheck
	UpdateOrder     UpdateOrder   // default start-first
	StopGracePeriod time.Duration // default 10 s

	// HTTP is true when a route or the health check needs an HTTP or TCP endpoint.
	HTTP bool
}

// Format is how a service's requests and replies look on the bus.
type Format string

// The formats.
const (
	Raw  Format = "raw"  // body in, body out; errors in micro's headers
	Nest Format = "nest" // NestJS's envelope
)

// ServiceBus is what a service may do on the bus. Anything not named is denied.
type ServiceBus struct {
	Group      string   // queue group of Answers, "" : any, also none
	Format     Format   // default raw
	Answers    []string // subjects it answers requests on; may hold wildcards
	Asks       []string // subjects it sends requests to
	Publishes  []string
	Subscribes []string
	// SharedInbox grants _INBOX.> for clients that cannot set an inbox prefix
	// (`inbox: shared`).
	SharedInbox bool
}

// Healthcheck says when an instance is ready and whether it still lives.
// The zero probe means: ready once registered on the bus (where it answers)
// and once its endpoint accepts connections (where HTTP is true).
type Healthcheck struct {
	HTTP        string        // path that must answer 2xx, "" for none
	TCP         bool          // the endpoint must accept a connection
	Interval    time.Duration // default 2 s
	Timeout     time.Duration // of one probe, default 2 s
	Retries     int           // failures in a row before a restart, default 3
	StartPeriod time.Duration // an instance not ready by then is restarted, default 60 s
}

// Route is what a request matches, and where it goes. Exactly one of Service,
// Request and Files is set.
type Route struct {
	Key    string // as written: "[METHOD ][HOST]/path"
	Method string // "" for any
	Host   string // "" for any; "*.example.com" for one label
	Path   string // net/http's pattern syntax: {name}, {name...}, {$}, trailing slash

	Service string   // name of the service that gets the request over HTTP
	Request *Request // request over the bus
	Files   string   // absolute folder of files to serve

	Roles   []string      // any one of them suffices; empty: public
	Timeout time.Duration // whole request, default 30 s
	Limits  Limits
	Retry   bool // the request may be sent again whatever its method
}

// Request is a request over the bus.
type Request struct {
	Subject string // may hold {name} of the path; an object pattern stands here as NestJS's JSON
	Service string // the service that answers it
	Format  Format // of that service
	Data    any    // nil: body, else query merged with path; see docs for $path, $query, $body
	// Errors maps an error's message, or its status as digits, or "default", to
	// the HTTP status the client gets, 400 to 599.
	Errors map[string]int
}

// Secret is a value that only the services that name it are given.
type Secret struct {
	Name     string // [A-Z][A-Z0-9_]*
	Generate int    // characters to generate once and keep, 16 to 128; 0: not generated
	Env      string // variable of the operator's shell
	File     string // absolute path
}

// Database is a store with one owning service.
type Database struct {
	Name   string
	Engine string // sqlite
	Init   string // absolute path of the script that runs once, "" for none
	Owner  string // service
}

// Service returns the service with that name.
func (s *System) Service(name string) (*Service, bool) {
	for i := range s.Services {
		if s.Services[i].Name == name {
			return &s.Services[i], true
		}
	}
	return nil, false
}

// Route returns the route with that key.
func (s *System) Route(key string) (*Route, bool) {
	for i := range s.Routes {
		if s.Routes[i].Key == key {
			return &s.Routes[i], true
		}
	}
	return nil, false
}

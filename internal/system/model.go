package system

import (
	"net/netip"
	"time"

	"fairlead/internal/system/document"
)

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
	Routes    []*Route   // sorted by key; those that stayed are the same in later revisions
	Secrets   []Secret   // sorted by name
	Databases []Database // sorted by name
	Types     []Type     // sorted by name
	Queues    []Queue    // sorted by name

	// Warnings are what is valid in the file, but weakens the system.
	Warnings Findings

	// Source is the text of the file, kept so that a revision can be applied again.
	Source []byte
	// Files are the texts of the schemas that the file names, in any environment, by
	// their paths as it writes them, kept for the same reason.
	Files map[string][]byte

	// flat is the merged document but the routes as path -> value, for Diff.
	flat map[string]string

	reading *reading // nil if the file cannot be read in parts
}

// Gateway is the one door.
type Gateway struct {
	Listeners []Listener // at least one; default one on "127.0.0.1:8080"
	TLS       *TLS       // nil: every listener speaks plain HTTP

	// TrustedProxies are the networks whose X-Forwarded-For, X-Forwarded-Proto and
	// Forwarded are believed. Empty: nobody's.
	TrustedProxies []netip.Prefix

	Limits      Limits // defaults for every route: body 10 MiB, header 32 KiB
	Filters     Filters
	Headers     HeaderRules
	Maintenance *Maintenance // nil: the door is open
	Auth        Auth
}

// Listener is one address of the door.
type Listener struct {
	Address string // host:port
	// TLS is true when connections are encrypted: gateway.tls is there and the
	// listener does not say `tls: false`.
	TLS bool
	// Redirect answers every request with a redirect to https; the challenges of
	// ACME are answered before it.
	Redirect bool
	HTTP2    bool // offered in TLS, where it is the default; false without
	HTTP3    bool // on the same port over UDP; default false
	// ProxyProtocol are the networks that must begin a connection with a header of
	// the PROXY protocol, version 1 or 2. Connections of others have none.
	ProxyProtocol []netip.Prefix
}

// TLS says with which certificates the door shows itself. All sources may be used
// together: the certificates of files come first, then ACME's, then the internal
// authority's.
type TLS struct {
	Certificates []Certificate
	ACME         *ACME
	Internal     *InternalCA
	Client       *ClientCertificates // nil: none are asked for
	MinVersion   uint16              // tls.VersionTLS12 (default) or tls.VersionTLS13
	HSTS         time.Duration       // Strict-Transport-Security, 0: not sent
}

// Certificate is a pair of PEM files, watched while the system runs.
type Certificate struct {
	Certificate string // absolute path, the leaf first
	Key         string // absolute path
}

// ACME asks an authority for certificates as they are needed.
type ACME struct {
	Email     string
	Directory string   // URL of the authority, default Let's Encrypt's
	Root      string   // absolute path of PEM certificates that the directory's own must chain to, "" for the machine's
	Hosts     []string // names to have certificates for, without wildcards; default: the hosts of all routes that have none
}

// InternalCA is an authority of the system's own, for development: its root is
// made once and kept in the data folder.
type InternalCA struct {
	Hosts []string // names besides localhost and the hosts of all routes; a request for another name is refused
}

// ClientCertificates asks clients for certificates.
type ClientCertificates struct {
	CA       string // absolute path of PEM certificates they must chain to
	Required bool   // default true; else a client without one is let in, and routes see none
}

// Limits bound what a client may send. Zero means "as the gateway says".
type Limits struct {
	Body   int64 // bytes of a request's body
	Header int64 // bytes of a request's head; gateway only
	// Connections is the most that one client's address may have open; gateway
	// only, default 1,000.
	Connections int
	// MinRate is the least that a client must send of a body and take of an answer,
	// in bytes per second, over windows of 10 s; default 100.
	MinRate int64
}

// Filters decide whether a request is let in. Those of a route are added to the
// gateway's for addresses, and replace them for the rest.
type Filters struct {
	Allow    []netip.Prefix // empty: everyone
	Deny     []netip.Prefix // comes before Allow
	Rates    []Rate         // all of them must let a request pass
	RatesSet bool           // the file says rate, perhaps `rate: []` to take the gateway's away
	CORS     *CORS          // nil: no headers of CORS are set
	Compress *bool          // nil: as the gateway says, there: true
}

// RateBy says whose requests a rate counts together.
type RateBy string

// The keys of a rate.
const (
	ByClient RateBy = "client" // the client's address, IPv6 by its /64
	ByToken  RateBy = "token"  // the user's subject, else the client's address
	ByRoute  RateBy = "route"  // all requests of the route together
)

// Rate is a token bucket: Requests per Per on average, at most Burst at once.
type Rate struct {
	Requests int // 1 to 1,000,000
	Per      time.Duration
	Burst    int // default Requests
	By       RateBy
}

// CORS answers browsers that ask from other origins.
type CORS struct {
	Origins     []string // "https://app.example.com", "https://*.example.com", or "*"
	Methods     []string // default GET, HEAD, POST
	Headers     []string // request headers that may be sent
	Expose      []string // answer headers that may be read
	Credentials bool     // not with the origin "*"
	MaxAge      time.Duration
}

// HeaderRules change headers on the way to a service and back.
type HeaderRules struct {
	Request map[string]string // header, in its canonical form -> value, "" removes it
	Answer  map[string]string // as above
}

// Maintenance answers requests with 503 and a text.
type Maintenance struct {
	Text  string         // public, default "down for maintenance"
	Allow []netip.Prefix // clients that are let through
}

// Auth says how the gateway knows a user.
type Auth struct {
	JWT     *JWT     // nil: no tokens are accepted
	Basic   *Basic   // nil: no passwords are accepted
	Keys    *Keys    // nil: no API keys are accepted
	Forward *Forward // nil: no service is asked
}

// AuthMethod is a way in which a client says who it is.
type AuthMethod string

// The methods.
const (
	AuthJWT     AuthMethod = "jwt"
	AuthBasic   AuthMethod = "basic"
	AuthKeys    AuthMethod = "keys"
	AuthForward AuthMethod = "forward"
)

// Basic is HTTP's Basic authentication.
type Basic struct {
	Realm string       // default the system's name
	Users []Credential // Name is the user's
}

// Keys are API keys in a header.
type Keys struct {
	Header string // default X-API-Key
	Keys   []Credential
}

// Credential is somebody who knows a secret.
type Credential struct {
	Name   string // the subject of the user that the services see
	Secret string // name of the secret that holds the password or key
	Roles  []string
}

// Forward asks a service about every request of the routes that say so, as
// nginx's auth_request does: 2xx lets it in, 401 and 403 are passed on, anything
// else is 502.
type Forward struct {
	Service string
	Path    string        // of the GET request that is made
	Headers []string      // of the answer that are passed on to the route's service
	Timeout time.Duration // default 5 s
	// RoleHeader and SubjectHeader name headers of the answer that say who the user
	// is; "" for none.
	SubjectHeader, RolesHeader string
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

// Bus is the embedded NATS server, with its JetStream or one elsewhere.
type Bus struct {
	Listen  string     // loopback host:port, default "127.0.0.1:0"
	Outside *Outside   // nil: no native NATS from outside
	Users   []BusUser  // sorted by name
	Server  *BusServer // nil: the bus keeps what it keeps itself
}

// Outside is a listener for native NATS over TLS, for clients on other machines.
type Outside struct {
	Listen      string // host:port
	Certificate string // absolute path of PEM, the leaf first
	Key         string // absolute path of PEM
}

// BusServer is a NATS server that something else runs, whose JetStream keeps what the
// bus keeps. The bus is a leaf node of it. At most one of Credentials and SigningKey
// is set.
type BusServer struct {
	URL         string // nats:// or tls://, without user and password, of the port of leaf nodes; "": it is in a secret
	URLSecret   string // name of the secret that holds the URL, instead of URL
	Credentials string // name of the secret that holds the text of a .creds file, "" for none
	SigningKey  string // name of the secret that holds the account's signing key (seed), "" for none
	Account     string // public key of the account, "": SigningKey is the account's own
}

// BusUser is a client of the bus that is no service of the system.
type BusUser struct {
	Name       string
	Secret     string // name of the secret that holds the password
	Publishes  []string
	Subscribes []string
	Asks       []string
	Expires    time.Time // zero: never
}

// Type is a JSON Schema (2020-12) that messages must satisfy.
type Type struct {
	Name   string // [A-Za-z][A-Za-z0-9]{0,62}
	File   string // absolute path
	Schema []byte // its text, kept so that a revision can be applied again
}

// Enforce says what becomes of a message that does not satisfy its queue's type.
type Enforce string

// The ways to enforce a type.
const (
	EnforceReject     Enforce = "reject"     // an error reply, nothing is stored
	EnforceQuarantine Enforce = "quarantine" // stored among the dead letters, with the reason
	EnforceObserve    Enforce = "observe"    // stored, and counted
)

// Queue is a named, retained set of subjects.
type Queue struct {
	Name     string // the subjects, such as data.vhf or activity.*
	Type     string // "" for any message
	Enforce  Enforce
	Keep     time.Duration // default 7 days
	MaxBytes int64         // 0: as much as the disk has; the oldest go first
	MaxCount int64         // messages, 0: any number; the oldest go first
	Dedupe   time.Duration // window in which a repeated Nats-Msg-Id is dropped, default 2 min
	Replicas int           // servers that keep it: 1, with [Bus.Server] to 5; default 1
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
	Name            string   // [a-z][a-z0-9-]{0,62}
	External        []string // host:port of instances that something else runs; then nothing below but Healthcheck, Drain, Pool and HTTP is set
	Build           string   // shell command line, "" for none; $OUT is the service's folder in the revision
	Watch           []string // absolute folders and files whose change rebuilds the service under `up --watch`; default WorkingDir
	Command         []string
	WorkingDir      string // absolute, default the system's Dir
	Replicas        int    // 0 to 64, default 1
	Environment     map[string]string
	Secrets         []string    // sorted
	Databases       []string    // sorted
	Bus             *ServiceBus // nil: no bus section, no credentials
	Healthcheck     Healthcheck
	UpdateOrder     UpdateOrder   // default start-first
	Drain           time.Duration // how long WebSockets and streams may stay on an instance that leaves, default 30 s
	StopGracePeriod time.Duration // default 10 s
	Pool            Pool

	// HTTP is true when a route or the health check needs an HTTP or TCP endpoint.
	HTTP bool
}

// Balance says how a pool chooses among its endpoints.
type Balance string

// The ways to choose.
const (
	LeastRequests Balance = "least-requests" // the fewest open requests
	RoundRobin    Balance = "round-robin"
	TwoChoices    Balance = "two-choices" // the better of two at random
	HashBalance   Balance = "hash"        // consistent hash of Pool.Hash
)

// Protocol is what the gateway speaks with a service.
type Protocol string

// The protocols.
const (
	HTTP1 Protocol = "http/1.1"
	H2C   Protocol = "h2c" // HTTP/2 without TLS, prior knowledge
)

// HashKey is what a consistent hash or a sticky route looks at: "client",
// "path", "header:<Name>" or "cookie:<name>".
type HashKey string

// Pool says how the gateway uses the instances of a service.
type Pool struct {
	Balance   Balance       // default least-requests
	Hash      HashKey       // for HashBalance, default client
	Protocol  Protocol      // default http/1.1
	SlowStart time.Duration // in which a new endpoint comes to its full share, default 0

	// Concurrency is the most requests open on the pool at once, 0 for no limit.
	// Those beyond it wait, at most Queue of them, at most QueueTime.
	Concurrency int
	Queue       int           // default Concurrency
	QueueTime   time.Duration // default 5 s

	// An endpoint with Eject failures in a row gets no requests for EjectTime, as
	// long as at least half of the pool is left. 0: never. Default 5 and 10 s.
	Eject     int
	EjectTime time.Duration
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

// Route is what a request matches, and where it goes. Exactly one of Targets,
// Request, Publish, Subscribe, NATS, Files, Redirect and Monitor is set.
type Route struct {
	Key    string // as written: "[METHOD ][HOST]/path"
	Method string // "" for any
	Host   string // "" for any; "*.example.com" for one label
	Path   string // net/http's pattern syntax: {name}, {name...}, {$}, trailing slash

	Targets   []Target // services that get the request over HTTP; several share it by weight
	Request   *Request // request over the bus
	Publish   *Publish
	Subscribe *Subscribe
	NATS      *NATS
	Files     *Files
	Redirect  *Redirect
	Monitor   Monitor

	StripPrefix bool   // the service sees the path without the route's literal prefix
	Rewrite     string // path that the service sees, may hold {name} of the path; "" for the client's
	Headers     HeaderRules
	Sticky      HashKey // "" for none; "cookie" makes a cookie of the gateway's own

	Roles       []string      // any one of them suffices; empty: public, unless Auth is set
	Auth        []AuthMethod  // any one of them suffices; empty with Roles: all that the gateway has but forward
	Timeout     time.Duration // whole request, default 30 s
	Limits      Limits
	Filters     Filters
	Maintenance *Maintenance // nil: as the gateway says
	Retry       bool         // the request may be sent again whatever its method

	written []document.Leaf // its text, for Diff
}

// Publish stores the request's body in a queue.
type Publish struct {
	Subject string // of a queue; may hold {name} of the path
	// Dedupe are the fields whose values together make a message the same as an
	// earlier one, for as long as the queue keeps that: "body.<path>" or
	// "header.<Name>". Empty: by Nats-Msg-Id only, which clients give as
	// Idempotency-Key.
	Dedupe    []string
	Headers   []string   // request headers that the message carries
	Signature *Signature // nil: none is asked for
}

// Signature says how a webhook proves where it comes from.
type Signature struct {
	Kind   string // github, stripe, standard (Standard Webhooks), token
	Secret string // name of the secret
	Header string // for token: the header that must hold the secret
}

// Subscribe streams a queue's messages, or plain subjects, to WebSockets and
// server-sent events.
type Subscribe struct {
	Subject string // may hold wildcards, {name} of the path and {claim:name} of the user
	// Buffer is the most messages that wait for a slow client before it is told
	// and dropped; default 256.
	Buffer    int
	Heartbeat time.Duration // default 15 s
	Origins   []string      // of browsers that may open a WebSocket; default the door's own
}

// NATS lets clients speak NATS itself over a WebSocket, as users of the bus.
type NATS struct {
	Origins []string // of browsers that may open one; default the door's own
}

// Target is a service with its share of a route.
type Target struct {
	Service string
	Weight  int // 0 to 1,000; shares are relative; 1 where there is one target
}

// Files is a folder that is served.
type Files struct {
	Dir      string // absolute
	Fallback string // file that answers for names that do not exist, such as index.html; "" for none
	// Precompressed serves name.br, name.zst and name.gz to clients that accept
	// them; default true.
	Precompressed bool
	MaxAge        time.Duration // Cache-Control, 0: no-cache
}

// Redirect sends the client elsewhere.
type Redirect struct {
	To     string // URL or path, may hold {name} of the path; the query is kept if To has none
	Status int    // 301, 302, 303, 307 or 308 (default)
}

// Monitor is something that fairlead itself answers.
type Monitor string

// The monitors.
const (
	MonitorBus     Monitor = "bus"     // /varz, /connz, /routez, /leafz, /subsz, /jsz, /healthz below the route
	MonitorMetrics Monitor = "metrics" // for Prometheus
	MonitorHealth  Monitor = "health"  // 200 while the door serves

	MonitorCatalogue Monitor = "catalogue" // the queues and their types, an AsyncAPI 3 document
	MonitorClient    Monitor = "client"    // fairlead.js, for browsers
)

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
			return s.Routes[i], true
		}
	}
	return nil, false
}

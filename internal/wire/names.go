// Package wire is what travels between the gateway, the bus and the services:
// header names, the identity token, reply envelopes, trace context, environment
// names and log keys. It depends on the standard library only, so that the
// public package service can use it.
package wire

// Headers that fairlead sets. Whatever a client sends under the Prefix, in any
// spelling (case, underscores for dashes), is removed at the door.
const (
	HeaderPrefix    = "Fairlead-"
	HeaderIdentity  = "Fairlead-Identity"       // signed identity token, see Identity
	HeaderRequestID = "X-Request-Id"            // request id, made or accepted at the door
	HeaderDeadline  = "Fairlead-Deadline"       // Unix milliseconds after which nobody waits for the reply
	HeaderTrace     = "Traceparent"             // W3C trace context
	HeaderState     = "Tracestate"              // W3C trace context
	HeaderClient    = "Fairlead-Client-Subject" // RFC 4514 name of the client's verified certificate, over HTTP only
	HeaderStatus    = "Fairlead-Status"         // on a bus reply: HTTP status of a success, default 200
	HeaderType      = "Content-Type"            // on a bus reply: media type, default application/json
	HeaderError     = "Nats-Service-Error"      // micro's error headers
	HeaderErrorCode = "Nats-Service-Error-Code"
)

// Environment variables that every instance may be given; see the design.
const (
	EnvSystem      = "FAIRLEAD_SYSTEM"
	EnvService     = "FAIRLEAD_SERVICE"
	EnvInstance    = "FAIRLEAD_INSTANCE"
	EnvIdentityKey = "FAIRLEAD_IDENTITY_KEY" // base64url of the Ed25519 public key that verifies Identity tokens
	EnvSocket      = "FAIRLEAD_SOCKET"       // path of the Unix socket the instance may listen on instead of PORT
	EnvGroup       = "FAIRLEAD_GROUP"        // queue group of the service's answers
	EnvGrace       = "FAIRLEAD_GRACE"        // Go duration between SIGTERM and SIGKILL
	EnvPort        = "PORT"
	EnvNATSURL     = "NATS_URL"
	EnvNATSUser    = "NATS_USER"
	EnvNATSPass    = "NATS_PASSWORD"
	EnvNATSInbox   = "NATS_INBOX_PREFIX"
	EnvDatabaseURL = "DATABASE_URL" // or DATABASE_URL_<NAME> in capitals, dashes as underscores
)

// InboxPrefix is the first token of every private inbox:
// _FL.<service>.<instance> for an instance, _FL.gateway.<random> for the gateway.
// Hence one wildcard names the inboxes of all instances of one service.
const InboxPrefix = "_FL"

// UserInboxes is what the inboxes of users of the bus begin with, who are no
// service: _FL.user.<name>. A service may be named "user", too; its instances end in
// a number, and no user does.
const UserInboxes = InboxPrefix + ".user"

const (
	// OperatorInboxes is what the inboxes of the node's own connections begin with.
	OperatorInboxes = InboxPrefix + ".operator"
	// SharedInboxes is what those of clients begin with that can set no prefix, and of
	// the operator's tools.
	SharedInboxes = "_INBOX"
)

// Keys of structured logs, the same everywhere.
const (
	KeyService   = "service"
	KeyInstance  = "instance"
	KeyRevision  = "revision"
	KeyRequestID = "request_id"
	KeyTraceID   = "trace_id"
	KeySpanID    = "span_id"
	KeyRoute     = "route"
	KeyStatus    = "status"
	KeyError     = "error"
	KeySubject   = "subject"
	KeyReason    = "reason"
)

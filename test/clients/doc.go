// Package clients holds a program that uses the official JavaScript clients of NATS,
// and the test, with the build tag real, that runs it against fairlead's bus from
// outside: over TLS and over WebSockets, with the credentials of users of the bus.
package clients

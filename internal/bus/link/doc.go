// Package link says how the bus's server becomes a leaf node of a NATS server that
// something else runs, whose JetStream then keeps what the bus keeps.
//
// The bus's own server stays what every client connects to, so that credentials,
// permissions, drains and checks are as ever; what it does not have is a store. A
// [Server] that was found ([Find]) gives the server its option ([Remote]), the
// mappings that lead JetStream's API over the link ([Mappings]), and permissions
// that hold for what is mapped ([Redirect]).
//
// What the package does not do: it starts nothing and keeps no connection open, and
// it does not bind the other clients of the server elsewhere to anything. See
// docs/decisions/0030-external-nats.md.
package link

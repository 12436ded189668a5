// Package gatekeeper stands between the clients of the bus and those subjects of
// JetStream which the server answers: pulls, questions about consumers, and
// acknowledgements. It looks at where the answer is to go.
//
// The server publishes its answers itself, under no permissions of whoever asked. A
// client that may pull could otherwise have anything said on any subject: what may
// purge a stream, what was stored past the checker, what another service takes for a
// request.
//
// What the server is asked is mapped to subjects that the [Gatekeeper] hears
// ([Mappings]), and passed on in the order in which it came, if the answer goes to an
// inbox that the asker may use. All else is dropped, counted and logged. Headers are
// not passed on: JetStream reads none of these messages' headers, but the server acts
// on some of any message.
//
// What the package does not do: it knows no permissions. Who may pull from a consumer
// is the server's to check, on the mapped subjects. What is published to queues goes by
// the checker (package catalogue), which uses [Inbox] itself.
package gatekeeper

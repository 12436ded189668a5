// Package bus is the embedded NATS server with JetStream, and who may do what on it.
// The JetStream may be another server's ([Options.Elsewhere]), of which the bus is a
// leaf node then; all else is the same.
//
// A [Bus] runs one nats-server inside the process, on a loopback address, with
// its store in one folder that no other server can open at the same time. Every
// write to a stream is on disk before it is acknowledged. When the disk was full,
// the bus opens the store again as soon as it takes writes; [Bus.Healthy] tells why
// it does not.
//
// Each instance of a service gets its own user with a random password
// ([Bus.Issue]). What that user may do is derived from the model of the file by
// [Permissions] and nothing else: the subjects that the service answers, asks,
// publishes and subscribes, a private inbox, replies to those who may ask it,
// and micro's discovery. Everything not named is denied, JetStream's API and
// the server's system account among it.
//
// Clients that are no services are users of the bus ([Bus.SetUsers]): permissions in
// the same way, and an end by date or at once, which cuts their connections. Only they
// may come from other machines: over TLS where the model says so, and over connections
// that somebody else has secured ([Bus.Enter]). Instances come over loopback.
//
// [Bus.Drain] takes the subscriptions of an instance away on the server. It
// works for every client library, because it asks nothing of the client: when it
// returns, no further request is given to that instance, while its connection
// lives on and the replies that it still owes arrive.
//
// No instance or user keeps more than 64 connections: the youngest above are cut.
//
// What the package does not do: it does not know processes or routes; it does not
// encrypt what stays on the loopback interface; and it does not cluster.
package bus

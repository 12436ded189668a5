// Package delivery makes the consumers by which services and users of the bus get
// the messages of queues, and puts what they cannot handle among the dead letters.
//
// Clients make no consumers: whoever may, may have any message of any stream sent
// anywhere. A party asks the [Desk] on a subject that is granted to it alone, and
// gets the names of consumers that it may pull from and acknowledge to; a consumer's
// metadata says whose it is, so that the permissions can be derived again.
//
// Delivery is at least once: a message is given again until it is acknowledged. A
// message is acknowledged for its receiver only after its copy among the dead letters
// is stored.
//
// What the package does not do: it carries no messages, and it knows no permissions,
// which are the bus's ([Registry]). Where the answers to pulls go is package gatekeeper's.
package delivery

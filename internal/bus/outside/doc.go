// Package outside lets clients on other machines speak NATS with the bus, encrypted.
//
// A [Front] listens with TLS and carries what it decrypts to a connection within the
// process of the same server that the services use. So there is one server, one set
// of users and permissions, and a user that is revoked is cut at once. The front
// itself says what NATS's protocol has before the password: the INFO of a server
// that requires TLS. Clients that begin with TLS without waiting for it are
// understood, too. A connection within the process is made only when the client has
// said who it is: whoever says nothing costs the server nothing.
//
// [Front.Enter] does the same for a connection that somebody else has accepted and
// secured, such as a WebSocket at the door.
//
// What it does not do: it does not know users or permissions, which are the
// server's; and it reads nothing of what a client says after its CONNECT.
package outside

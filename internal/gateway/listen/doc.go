// Package listen is the outside of the door: it binds the listeners, takes
// connections, and serves HTTP/1.1, HTTP/2 and HTTP/3 on them with one handler per
// listener.
//
// Guarantees:
//   - A listening socket lives as long as its address is in the file. A change binds
//     what is new before anything else happens, and if that fails nothing changes.
//     What is gone stops accepting; its connections finish.
//   - A connection that waits (for its PROXY header, its TLS handshake, its first
//     request) holds up no other, and not for longer than a fixed time.
//   - The number of connections is bounded, for each client and for all.
//   - A listener that ends tells its clients: Connection: close, GOAWAY. It cuts
//     nothing that is under way.
//
// It does not know routes, nor where certificates come from: it is given a
// [tls.Config]. WebSockets are offered over HTTP/1.1 only (RFC 8441 and RFC 9220
// are not): browsers open a connection for them.
package listen

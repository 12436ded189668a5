// Package certs decides which certificate the door shows, and gets it: from files,
// from an authority that speaks ACME (RFC 8555), or from an authority of the
// system's own for development.
//
// Guarantees:
//   - What is served is one immutable value behind one atomic pointer. A change
//     builds the next one and swaps it: listeners go on, handshakes that run do not
//     notice, and sessions are resumed over a swap.
//   - A certificate that cannot be read, or does not fit its key, never replaces one
//     that works. Files are looked at every two seconds by content, so that it does
//     not matter how they are replaced.
//   - An authority is asked for the names of the configuration and for no others;
//     what a client writes into its first message makes nothing.
//   - Connections are TLS 1.2 or 1.3. In 1.2 only ECDHE with AES-GCM or
//     ChaCha20-Poly1305 is spoken: no CBC, no RC4, no 3DES, no RSA key exchange. The
//     suites of 1.3 and the groups (hybrid ML-KEM first) are Go's. There is no
//     renegotiation.
//
// Which certificate: the one with exactly the name that the client asks for, else
// one with a wildcard in place of the first label, else, if there are certificates
// of files, the first of them; else the handshake is refused. A client that names
// nothing gets the one for the address it connected to, else the first of all.
//
// It does not listen, bound the time of a handshake, or redirect. Wildcard names are
// not asked of an authority: that needs access to the DNS.
package certs

// Package filter holds what decides whether a request is let in: sets of networks,
// the client's address behind proxies, the ban list, rate limits, CORS, and the
// comparison of passwords and API keys.
//
// Guarantees:
//   - An address is what the connection says, unless the peer is a trusted proxy:
//     then it is the first from the right, in what the proxies wrote down, that is no
//     trusted proxy. What stands left of it is never looked at.
//   - Everything that comes from outside is bounded in length, number and memory:
//     rate limits keep a fixed number of buckets however many clients come, and
//     forget the least indebted first.
//   - Rates are measured with the monotonic clock: one that is set neither locks
//     anybody out nor lets anybody in. Bans end by the wall clock, over restarts too.
//   - Sets, ban lists and rules are immutable once made; limiters are safe for
//     concurrent use.
//
// It answers no request, logs nothing, starts no goroutine and knows nothing of
// routes, tokens and services.
package filter

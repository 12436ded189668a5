// Package control is how the fairlead command talks to the node that runs a
// system: HTTP/1.1 on a Unix socket in the node's data folder.
//
// A call is POST /v1/<verb> with a JSON object. The answer is a stream of lines,
// each a JSON object: any number of {"event":...} while a long operation goes on
// (or {"item":...} for a verb that gives a stream), then exactly one of
// {"result":...} and {"error":{"code","message","hint"}}. An answer without such
// an end is a broken one, and is reported as such.
//
// Guarantees: the socket answers only the user who owns the node, and only
// processes that [ServerOptions].Allow lets through; requests are bounded in
// size and time; when the caller goes away, the context of the verb ends; a
// socket that a dead node left behind is replaced, that of a living one never.
// Paths of any length work.
//
// The package does not know what the verbs do, and it does not lock the data
// folder: package node does both.
package control

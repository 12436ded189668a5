// Package backup writes all that a bus keeps into one file while it runs, and makes
// a store of such a file.
//
// [Write] takes each stream, with its consumers, as it is at one moment; streams are
// taken one after the other, and publishing goes on meanwhile. Every message is read,
// with its checksum: a damaged one ends the backup with an error. The file ends with
// what it must hold, so that one that was cut off is known: [Check] reads it whole.
//
// [Restore] makes a new store, syncs it, opens it once more, and compares what is in
// there with what the file says. A message that has become older than its stream
// keeps is gone then.
//
// The file is a tar archive (POSIX.1-2001):
//
//	backup.json             which system, when
//	1/stream.json           configuration and state of the first stream
//	1/00000001, ...         what the server made of it, in chunks
//	1/end.json              their length and SHA-256
//	2/stream.json           ...
//	end.json                the number of streams and messages, and the SHA-256 of all before
//
// What the package does not do: it encrypts nothing, it keeps the bus's messages as
// readable as they are in the store; and it does not know which of the streams belong
// to whom.
package backup

// Package catalogue makes the queues of a system out of the streams of JetStream,
// and sees that nothing is stored which does not satisfy its queue's type.
//
// A queue keeps its messages in one stream ([Stream] is its name). What is published
// to a queue's subject comes there on a way of its own (docs/decisions/0025), whoever
// publishes it and with whatever client:
//
//	data.vhf --mapping--> $FLQ.in.data.vhf --[Checker]--> $FLQ.ok.data.vhf --> stream
//
// The stream acknowledges to the publisher itself, after the message is on the disk,
// and only then do plain subscribers of data.vhf hear it. While there is no checker,
// publishers are told that nobody answers; nothing comes into
// the stream unchecked.
//
// The checker keeps the order: the messages of all publishers are stored in the order
// in which the server got them.
//
// Messages that a queue refuses with [system.EnforceQuarantine] are kept in the
// stream [DeadLetters], each a full copy with the reason.
//
// What the package does not do: it knows no permissions and sets no mappings, which
// are the bus's; and it delivers nothing to consumers.
package catalogue

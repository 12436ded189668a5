package wire

import "time"

// Subjects on which a party of the bus asks the node for what it may not do itself.
// Each is followed by the party's user name, and granted to that user only, so that
// the server says who asks (docs/decisions/0026). Requests and replies are JSON.
const (
	SubjectSubscribe = "$FLQ.subscribe." // SubscribeRequest, answered with SubscribeReply
	SubjectReject    = "$FLQ.reject."    // RejectRequest, answered with RejectReply
	SubjectNames     = "$FLQ.queues."    // nothing, answered with QueueNames
)

// SubjectQueues is where everybody hears the QueueNames when they change.
const SubjectQueues = "$FLQ.queues"

// EnvQueues holds the names of the queues when an instance was started, separated by
// spaces. It is set, and may be empty, where a node is there to ask.
const EnvQueues = "FAIRLEAD_QUEUES"

// QueueNames are the subjects that queues keep.
type QueueNames struct {
	Queues []string `json:"queues"`
}

// SubscribeRequest asks for the consumers that give a party the messages of a
// subject.
type SubscribeRequest struct {
	Subject string `json:"subject"` // may hold wildcards
	// Name makes the subscription durable: all who are the same party share it, and
	// it goes on where it stopped. "" is a reader: it belongs to the one who asks,
	// gets everything in order, acknowledges nothing and is gone soon after.
	Name   string `json:"name,omitempty"`
	Reader string `json:"reader,omitempty"` // tells the readers of one user apart
	// From is where a durable subscription begins when it is new, and a reader
	// always: "first" (default), "new", a time of RFC 3339, or a sequence.
	From string `json:"from,omitempty"`
	// InFlight is how many messages one client handles at a time; default 64.
	InFlight int `json:"in_flight,omitempty"`
	// Ordered gives one message at a time, whoever gets it.
	Ordered bool `json:"ordered,omitempty"`
	// AckWait is a Go duration after which a message that is not acknowledged is
	// given again; default 30s.
	AckWait string `json:"ack_wait,omitempty"`
	// Attempts is how often a message is given before the node puts it among the dead
	// letters, for clients that do not send a RejectRequest themselves. 0: for ever.
	Attempts int `json:"attempts,omitempty"`
	// Check makes nothing: the reply says only what would be wrong.
	Check bool `json:"check,omitempty"`
}

// SubscribeReply names the consumers, one for each queue that the subject meets, or
// says why there are none.
type SubscribeReply struct {
	Consumers []Consumer `json:"consumers,omitempty"`
	Failure
}

// Consumer is a consumer of JetStream that a party may pull from and acknowledge to.
type Consumer struct {
	Stream   string `json:"stream"`
	Name     string `json:"consumer"`
	Queue    string `json:"queue"`
	Filter   string `json:"filter"`                // the subjects that it gives
	Since    int64  `json:"since,omitempty"`       // when it was made or rewound, Unix nanoseconds
	Done     uint64 `json:"done,omitempty"`        // all up to this sequence is acknowledged
	AckWaits int64  `json:"ack_wait_ms,omitempty"` // milliseconds
}

// AckWait is the time after which a message is given again.
func (c Consumer) AckWait() time.Duration { return time.Duration(c.AckWaits) * time.Millisecond }

// RejectRequest puts a message among the dead letters, and acknowledges it.
type RejectRequest struct {
	Ack     string `json:"ack"`   // the reply subject that the message came with
	Cause   string `json:"cause"` // attempts or refused
	Reason  string `json:"reason"`
	Pointer string `json:"pointer,omitempty"`
}

// RejectReply is empty when the message is stored among the dead letters.
type RejectReply struct {
	Failure
}

// Failure says why the node did not do what it was asked. The zero value is none.
type Failure struct {
	Code   int    `json:"code,omitempty"` // HTTP status; 503: it may be tried again
	Reason string `json:"reason,omitempty"`
}

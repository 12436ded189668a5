package control

import (
	"encoding/json"
	"time"
)

// Queue is the state of a queue.
type Queue struct {
	Name     string    `json:"name"`
	Stream   string    `json:"stream"` // of JetStream
	Type     string    `json:"type,omitempty"`
	Enforce  string    `json:"enforce,omitempty"` // of a queue with a type
	Apart    bool      `json:"apart,omitempty"`   // it is not in the file any more, and takes no messages
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	First    uint64    `json:"first_sequence"`
	Last     uint64    `json:"last_sequence"`
	Oldest   time.Time `json:"oldest,omitzero"`
	Newest   time.Time `json:"newest,omitzero"`
	// Rate is how many messages a second were stored within the last minute.
	Rate float64 `json:"rate"`

	// What became of messages that do not satisfy the type, since the node started.
	Refused     uint64 `json:"refused"`
	Quarantined uint64 `json:"quarantined"`
	Observed    uint64 `json:"observed"`

	Dead      uint64         `json:"dead_letters"`
	Consumers List[Consumer] `json:"consumers"`

	// The limits, as the file has them; zero: none.
	Keep       time.Duration `json:"-"` // keep_seconds in JSON
	MaxBytes   int64         `json:"max_bytes,omitempty"`
	MaxCount   int64         `json:"max_messages,omitempty"`
	Publishes  List[string]  `json:"publishes"`  // services that may publish
	Subscribes List[string]  `json:"subscribes"` // services that may subscribe
}

// queueJSON is a Queue without its methods.
type queueJSON Queue

// MarshalJSON implements [json.Marshaler].
func (q Queue) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		queueJSON
		Keep float64 `json:"keep_seconds,omitempty"`
	}{queueJSON(q), q.Keep.Seconds()})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (q *Queue) UnmarshalJSON(b []byte) error {
	var in struct {
		queueJSON
		Keep float64 `json:"keep_seconds"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*q = Queue(in.queueJSON)
	q.Keep = time.Duration(in.Keep * float64(time.Second))
	return nil
}

// Consumer is a durable consumer of a queue.
type Consumer struct {
	Name    string    `json:"name"`
	Lag     uint64    `json:"lag"`     // messages that it was not given yet
	Unacked int       `json:"unacked"` // given and not acknowledged
	Again   int       `json:"again"`   // of those, given more than once
	Oldest  time.Time `json:"oldest,omitzero"`
	Unused  time.Time `json:"unused_since,omitzero"` // zero: somebody takes from it
}

// QueueMessage is a message of a queue, or a dead letter.
type QueueMessage struct {
	Sequence uint64              `json:"sequence"` // in the queue, or among the dead letters
	Subject  string              `json:"subject"`
	Time     time.Time           `json:"time"`
	Headers  map[string][]string `json:"headers,omitempty"`
	Data     []byte              `json:"data"`
	Dead     *Death              `json:"dead,omitempty"`
}

// Death says why a message is a dead letter.
type Death struct {
	Cause    string `json:"cause"`
	Reason   string `json:"reason"`
	Pointer  string `json:"pointer,omitempty"`
	Consumer string `json:"consumer,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"` // in the queue, of a message that was stored
}

// Requests and answers of the verbs for queues.
type (
	// QueueRequest names a queue.
	QueueRequest struct {
		Queue string `json:"queue"`
	}
	// PeekRequest asks for messages of a queue, oldest first.
	PeekRequest struct {
		Queue string `json:"queue"`
		From  uint64 `json:"from,omitempty"` // sequence; 0: the last Most messages
		Most  int    `json:"most"`           // 1 to 1,000
		Dead  bool   `json:"dead,omitempty"` // of its dead letters
	}
	// PurgeRequest removes messages of a queue, the oldest first.
	PurgeRequest struct {
		Queue  string    `json:"queue"`
		Keep   uint64    `json:"keep,omitempty"`   // the newest that stay
		Before time.Time `json:"before,omitzero"`  // only what was stored before
		Dead   bool      `json:"dead,omitempty"`   // its dead letters instead
		Remove bool      `json:"remove,omitempty"` // the queue too, which must not be in the file
	}
	// PurgeReply says how many messages were removed.
	PurgeReply struct {
		Removed uint64 `json:"removed"`
	}
	// DeadReplayRequest publishes dead letters of a queue again.
	DeadReplayRequest struct {
		Queue    string `json:"queue"`
		Sequence uint64 `json:"sequence,omitempty"` // among the dead letters; 0: all
	}
	// DeadReplayReply says what became of them.
	DeadReplayReply struct {
		Replayed int               `json:"replayed"`
		Refused  List[DeadRefusal] `json:"refused"`
	}
	// DeadRefusal is a dead letter that stays one.
	DeadRefusal struct {
		Sequence uint64 `json:"sequence"`
		Reason   string `json:"reason"`
	}
	// MoveReply says how many messages were moved.
	MoveReply struct {
		Moved int `json:"moved"`
	}
	// ConsumerRequest changes a durable consumer of a queue: it begins anew at From, or
	// is removed.
	ConsumerRequest struct {
		Queue    string `json:"queue"`
		Consumer string `json:"consumer"`
		From     string `json:"from,omitempty"` // first, new, a time of RFC 3339, or a sequence
		Remove   bool   `json:"remove,omitempty"`
	}
	// PublishRequest publishes a message as the operator.
	PublishRequest struct {
		Subject string            `json:"subject"`
		Headers map[string]string `json:"headers,omitempty"`
		Data    []byte            `json:"data"`
	}
	// PublishReply says where a message is stored. Stream is "" if no queue keeps the
	// subject.
	PublishReply struct {
		Stream    string `json:"stream,omitempty"`
		Sequence  uint64 `json:"sequence,omitempty"`
		Duplicate bool   `json:"duplicate,omitempty"`
		// Quarantined says that it is among the dead letters: it does not satisfy its type.
		Quarantined bool `json:"quarantined,omitempty"`
	}
	// SubscribeRequest is for what is published on a subject from now on.
	SubscribeRequest struct {
		Subject string `json:"subject"`
	}
)

// The verbs for queues.
const (
	VerbQueues     = "queues"      // Empty -> []Queue, sorted by name
	VerbQueue      = "queue"       // QueueRequest -> Queue
	VerbPeek       = "peek"        // PeekRequest -> []QueueMessage
	VerbPurge      = "purge"       // PurgeRequest -> PurgeReply
	VerbConsumer   = "consumer"    // ConsumerRequest -> Consumer, as it is then
	VerbDeadReplay = "dead-replay" // DeadReplayRequest -> DeadReplayReply
	VerbMove       = "queue-move"  // QueueRequest -> MoveReply
	VerbPublish    = "publish"     // PublishRequest -> PublishReply
	VerbSubscribe  = "subscribe"   // SubscribeRequest -> a stream of QueueMessage, sequence 0 where no queue keeps it
)

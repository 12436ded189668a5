package wire

// SubjectHold is followed by an instance's user name. On it the node tells the instance
// a [Hold], before it closes the bus for a moment, and waits for an empty answer, which
// says that what the instance has asked of its own accord is answered. Only the
// instance may hear it, and only the node send it. Who does not listen is not waited for.
const SubjectHold = "$FLQ.hold."

// Hold asks an instance to begin no request of its own until its connection to the bus
// was lost and is back, or it is told another Hold. What it asks to answer a request
// goes on, or the answer would not come.
type Hold struct {
	// Until is when the node goes on without an answer, in Unix milliseconds. 0, or any
	// time that has passed, ends the hold.
	Until int64 `json:"until_ms,omitempty"`
}

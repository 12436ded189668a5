package node

// ballastBytes are never written, so they take no memory: they only count as live.
// The collector runs when the heap has doubled; a node that lives on a few
// megabytes would be collected ten and more times a second under load. With the
// ballast it may first make as much garbage as this, whatever it lives on, and a
// heap that is large for other reasons grows no faster than any program's
// (docs/decisions/0006).
const ballastBytes = 32 << 20

// newBallast returns what must be kept as long as the node runs.
func newBallast() []byte { return make([]byte, ballastBytes) }

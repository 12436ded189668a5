package node

// ballastBytes are never written, so they take no memory: they only count as live.
// The collector runs when the heap has doubled, and a node that lives on a few
// megabytes would be collected a dozen times a second under load. With the ballast
// it may make as much garbage again before that. Unlike a higher GC percentage,
// this gives nothing more to a heap that is large for other reasons
// (docs/decisions/0006).
const ballastBytes = 16 << 20

// newBallast returns what must be kept as long as the node runs.
func newBallast() []byte { return make([]byte, ballastBytes) }

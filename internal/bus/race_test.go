//go:build race

package bus

// raceDetector says that it watches.
const raceDetector = true

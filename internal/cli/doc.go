// Package cli is the fairlead command: its verbs, and what they show.
//
// `up` runs a node in the foreground; every other verb asks the running one over
// its control socket. Results go to the standard output, progress and errors to
// the standard error, both only through the writers given to [Main]. With --json
// every verb writes its result, and its error, as JSON. The exit codes are 0
// done, 1 failed, 2 wrong usage or file.
//
// The package decides nothing about the system: it parses, calls and renders.
// Rendering is in the files render_*.go, as functions of what is to be shown.
package cli

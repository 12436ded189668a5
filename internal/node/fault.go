//go:build !faults

package node

// fault does nothing. In a build with the tag faults it fails at a step of an
// upgrade that the environment names.
func fault(string) error { return nil }

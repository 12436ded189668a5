// Package chaos holds the test that changes a system at random while it serves a
// mixed load, and counts what its clients notice.
package chaos

// Package system reads fairlead.yaml and turns it into [System], a model of plain
// data in which every default is set and every relation between services, routes,
// subjects, secrets and databases has been checked.
//
// It guarantees that a System it returns is valid as a whole, that all that is
// wrong with a file is told at once, each [Finding] with the place in the file and
// what to do about it, and that a file is judged the same whatever environment is
// chosen: the file as it stands and every one of its environments must be valid.
// Input is bounded (size, nesting, count of words), and no input makes it panic.
//
// The text becomes nodes with their places in the package document, and texts become
// values in the package notation; which keys there are, and what belongs together, is
// known here. A file that is read once more after some of its routes changed is not read
// as a whole, with the same outcome ([Options].Before).
//
// It reads the file, looks whether folders and files named in it exist, and reads the
// schemas and certificates among them. It does
// not open a network connection, start anything, resolve secrets, look at the
// operator's environment variables, or change anything on disk.
package system

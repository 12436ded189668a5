// Package notation reads the values of the file that are more than words: durations and
// sizes, names, addresses and networks, origins and headers, commands, subjects of the
// bus and patterns of routes. It says how two subjects, or two patterns, stand to each
// other.
//
// Every function takes the text as it is written and is pure: it knows no document, no
// model, and no file, opens nothing, and no text makes it panic. What is no value of its
// kind comes back with why, or with advice for a person.
package notation

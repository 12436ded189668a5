// Package document reads YAML into a tree of [Node], each with the place where it was
// written.
//
// It guarantees that a place and a path come with every value and key, that all that is
// wrong with the text is told at once where it can be, each [Fault] with the place of
// the mistake and what to do about it, and that no text makes it panic or takes it long:
// size, words, nesting and keys are bounded before anything runs that is not linear.
// What expands, hides or can be read in two ways is refused: duplicate keys, anchors,
// aliases, merge keys, tags, directives and second documents.
//
// It does not know which keys there are or what a value must be; that is the business of
// whoever reads the tree.
package document

// Package wording says to a person what the file holds and what was probably meant: the
// parts of sentences that every diagnostic is made of.
//
// It knows neither the file nor the diagnostics.
package wording

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Quote quotes text of the file, and shortens it to 80 characters.
func Quote(s string) string {
	const most = 80
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most-3]) + "..."
	}
	return strconv.Quote(s)
}

// OneLine writes text on one line.
func OneLine(s string) string {
	return strings.NewReplacer("\t", `\t`, "\n", " ", "\r", " ").Replace(s)
}

// Enumerate joins words as a person would, with last before the last one: "a, b or c".
// Of more than twelve it names the first ones.
func Enumerate(words []string, last string) string {
	const most = 12
	if len(words) > most {
		return strings.Join(words[:most], ", ") + ", ..."
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}

// Suggest returns the advice for a word that is not among the known ones: what was
// probably meant, otherwise what there is. none is the advice if nothing is known.
func Suggest(word string, known []string, none string) string {
	if best, ok := Nearest(word, known); ok {
		return "did you mean " + Quote(best) + "?"
	}
	if len(known) == 0 {
		return none
	}
	known = slices.Sorted(slices.Values(known))
	if len(known) == 1 {
		return "there is only " + known[0]
	}
	return "there are " + Enumerate(known, "and")
}

// Nearest returns the known word that is most like word, if one is like enough: at
// most a third of the letters differ.
func Nearest(word string, known []string) (string, bool) {
	const longest = 100
	if len(word) > longest {
		return "", false
	}
	best, distance := "", max(1, len(word)/3)+1
	for _, k := range known {
		if len(k) > longest || len(k) >= len(word)+distance || len(word) >= len(k)+distance {
			continue
		}
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < distance || d == distance && best != "" && k < best {
			best, distance = k, d
		}
	}
	return best, best != ""
}

// edits counts the letters to insert, remove, change or swap with their neighbour to
// get from a to b.
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

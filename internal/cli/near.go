package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// nearFlag returns the flag of cmd whose name is nearest to name, "" if none is
// near.
func nearFlag(cmd *cobra.Command, name string) string {
	best, least := "", 3
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := distance(name, f.Name); !f.Hidden && d < least {
			best, least = f.Name, d
		}
	})
	return best
}

// nearVerbs returns the verb that other programs call name, or those whose own
// names are nearest to it.
func nearVerbs(root *cobra.Command, name string) []string {
	name = strings.ToLower(name)
	var near []string
	least := min(3, len(name)) // of a short word, hardly a letter may differ
	for _, cmd := range root.Commands() {
		switch d := distance(name, cmd.Name()); {
		case cmd.Hidden:
		case slices.Contains(cmd.SuggestFor, name):
			return []string{cmd.Name()}
		case strings.HasPrefix(cmd.Name(), name):
			near, least = append(near, cmd.Name()), 0
		case d < least:
			near, least = []string{cmd.Name()}, d
		case d == least && d < min(3, len(name)):
			near = append(near, cmd.Name())
		}
	}
	return near
}

// distance counts the single-byte edits that turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

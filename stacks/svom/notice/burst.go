package notice

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Burst is what its notices together say.
type Burst struct {
	ID        string     `json:"burst_id"`
	Notices   int        `json:"notices"`
	First     time.Time  `json:"first"` // date of the earliest notice
	Last      time.Time  `json:"last"`  // date of the newest notice
	Observed  *time.Time `json:"observed,omitempty"`
	Level     string     `json:"level,omitempty"` // of the newest notice that has one
	Position  *Position  `json:"position,omitempty"`
	By        string     `json:"by,omitempty"`   // instrument of the position
	Slew      string     `json:"slew,omitempty"` // slewing, not slewing
	Retracted bool       `json:"retracted"`      // by the newest notice of all
	Types     []int      `json:"types"`          // of its notices, in the order of their dates
	Instr     []string   `json:"instruments"`    // sorted
	Test      bool       `json:"test,omitempty"` // all of its notices are tests
}

// Compare orders notices by their dates; those of one moment by their names.
func Compare(a, b Notice) int {
	return cmp.Or(a.Date.Compare(b.Date), strings.Compare(a.ID, b.ID), cmp.Compare(a.Serial, b.Serial))
}

// Summary says what the notices of one burst say together, of which there is at least
// one and none twice. Their order does not matter; they are sorted.
//
// The position is the newest one of the instrument that sees most sharply: VT, then
// MXT, then ECLAIRs, then any other.
func Summary(notices []Notice) Burst {
	slices.SortFunc(notices, Compare)
	b := Burst{ID: notices[0].Burst, Notices: len(notices), First: notices[0].Date, Last: notices[len(notices)-1].Date, Test: true}
	sharp := -1
	for _, n := range notices {
		b.Types = append(b.Types, n.Type)
		if !slices.Contains(b.Instr, n.Instrument) {
			b.Instr = append(b.Instr, n.Instrument)
		}
		b.Test = b.Test && n.Role == "test"
		b.Level = cmp.Or(n.Level, b.Level)
		if n.Observed != nil && (b.Observed == nil || n.Observed.Before(*b.Observed)) {
			b.Observed = n.Observed
		}
		if s := sharpness(n.Instrument); n.Position != nil && s >= sharp {
			b.Position, b.By, sharp = n.Position, n.Instrument, s
		}
		switch n.Type {
		case Slewing:
			b.Slew = "slewing"
		case NotSlewing:
			b.Slew = "not slewing"
		}
		b.Retracted = n.Type == Retraction
	}
	slices.Sort(b.Instr)
	return b
}

func sharpness(instrument string) int {
	return slices.Index([]string{"ECLAIRS", "MXT", "VT"}, strings.ToUpper(instrument)) + 1
}

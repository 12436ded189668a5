package flows

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// oracle works out a summary from the records themselves, by the words of the rule,
// with another algorithm and other arithmetic than the store.
func oracle(records []Record, by By, f Filter) map[string]map[string]*big.Int {
	// Of the same key the last one counts.
	last := map[Key]Record{}
	for _, r := range records {
		last[r.Key] = r
	}
	type group struct {
		reporter, period, partner int
		flow                      string
	}
	type around struct {
		reporter, period int
		flow             string
	}
	groups := map[group][]Record{}
	partners, reported := map[around]bool{}, map[around]bool{}
	for _, r := range last {
		if by == ByChapter && r.Cmd == Total {
			continue
		}
		g := group{r.Reporter, r.Period, r.Partner, r.Flow}
		groups[g] = append(groups[g], r)
		reported[around{r.Reporter, r.Period, r.Flow}] = true
		if r.Partner != World {
			partners[around{r.Reporter, r.Period, r.Flow}] = true
		}
	}
	sums := map[string]map[string]*big.Int{}
	for g, members := range groups {
		year := g.period
		if year > 9999 {
			year /= 100
		}
		if f.Reporter != nil && *f.Reporter != g.reporter || f.Partner != nil && *f.Partner != g.partner ||
			f.Year != 0 && f.Year != year || f.Flow != "" && f.Flow != g.flow {
			continue
		}
		if g.partner == World && partners[around{g.reporter, g.period, g.flow}] ||
			g.period > 9999 && reported[around{g.reporter, year, g.flow}] {
			continue
		}
		// The order of preference, spelled out.
		first := slices.MinFunc(members, func(a, b Record) int { return compareSlices(a.Key, b.Key) })
		for _, r := range members {
			if compareSlices(r.Key, first.Key) != 0 {
				continue
			}
			var key string
			switch by {
			case ByPartner:
				key = strconv.Itoa(g.partner)
			case ByReporter:
				key = strconv.Itoa(g.reporter)
			case ByYear:
				key = strconv.Itoa(year)
			case ByChapter:
				key = r.Cmd[:2]
			}
			if sums[key] == nil {
				sums[key] = map[string]*big.Int{}
			}
			if sums[key][g.flow] == nil {
				sums[key][g.flow] = new(big.Int)
			}
			sums[key][g.flow].Add(sums[key][g.flow], big.NewInt(int64(r.Value)))
		}
	}
	return sums
}

func compareSlices(a, b Key) int {
	level := func(k Key) int {
		if k.Cmd == Total {
			return 0
		}
		return len(k.Cmd)
	}
	split := func(k Key) string {
		return fmt.Sprint(k.Mot != 0, k.Customs != "C00", k.Partner2 != 0) // false sorts before true
	}
	revision := func(k Key) string {
		if k.Class == "HS" {
			return "H " // before H0
		}
		return k.Class
	}
	return cmp.Or(cmp.Compare(level(a), level(b)), cmp.Compare(split(a), split(b)), -cmp.Compare(revision(a), revision(b)))
}

// wantOracle compares all four summaries with the oracle's.
func wantOracle(t *testing.T, s *Store, records []Record) {
	t.Helper()
	for _, by := range []By{ByPartner, ByReporter, ByYear, ByChapter} {
		wantSummary(t, s, by, Filter{}, oracle(records, by, Filter{}))
	}
}

func wantSummary(t *testing.T, s *Store, by By, f Filter, want map[string]map[string]*big.Int) {
	t.Helper()
	got, err := s.Summarize(t.Context(), by, f)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	totals := map[string]*big.Int{}
	for _, row := range got.Rows {
		seen[row.Key] = true
		for _, flow := range []string{"M", "X", "RM", "RX"} {
			sum := *row.of(flow)
			expected := want[row.Key][flow]
			if sum == nil && expected == nil {
				continue
			}
			if sum == nil || expected == nil || expected.Cmp(big.NewInt(int64(*sum))) != 0 {
				t.Errorf("by %s %+v: %s of %s is %v, want %v thousandths", by, f, flow, row.Key, sum, expected)
				continue
			}
			if totals[flow] == nil {
				totals[flow] = new(big.Int)
			}
			totals[flow].Add(totals[flow], expected)
		}
	}
	for key := range want {
		if !seen[key] {
			t.Errorf("by %s %+v: %s is missing", by, f, key)
		}
	}
	for _, flow := range []string{"M", "X", "RM", "RX"} {
		sum := *got.Totals.of(flow)
		if (sum == nil) != (totals[flow] == nil) || sum != nil && totals[flow].Cmp(big.NewInt(int64(*sum))) != 0 {
			t.Errorf("by %s %+v: total of %s is %v, want %v thousandths", by, f, flow, sum, totals[flow])
		}
	}
}

// wantImports compares the imports of one summary.
func wantImports(t *testing.T, s *Store, by By, want map[string]string) {
	t.Helper()
	got, err := s.Summarize(t.Context(), by, Filter{Flow: "M"})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, row := range got.Rows {
		have[row.Key] = row.Imports.String()
	}
	if !maps.Equal(have, want) {
		t.Errorf("imports by %s are %v, want %v", by, have, want)
	}
}

func TestRuleForSums(t *testing.T) {
	tests := []struct {
		name       string
		rows       []string // reporter, flow, partner, cmd, value, period, class, partner2, customs, mot
		byReporter map[string]string
		byChapter  map[string]string
	}{
		{
			"chapters count, their headings do not",
			[]string{"40 M 757 44 10 2022", "40 M 757 4401 6 2022", "40 M 757 440110 3 2022"},
			map[string]string{"40": "10"},
			map[string]string{"44": "10"},
		},
		{
			"the most aggregated level counts alone, even where another has more chapters",
			[]string{"40 M 757 44 10 2022", "40 M 757 4801 6 2022"},
			map[string]string{"40": "10"},
			map[string]string{"44": "10"},
		},
		{
			"each group has a level of its own",
			[]string{"40 M 757 44 10 2022", "40 M 276 4801 6 2022", "40 M 276 480110 1 2022"},
			map[string]string{"40": "16"},
			map[string]string{"44": "10", "48": "6"},
		},
		{
			"TOTAL counts, but has no chapter",
			[]string{"40 M 757 TOTAL 100 2022", "40 M 757 44 10 2022", "40 M 757 48 11 2022"},
			map[string]string{"40": "100"},
			map[string]string{"44": "10", "48": "11"},
		},
		{
			"the world counts where it is alone",
			[]string{"40 M 0 44 10 2022", "40 M 0 44 11 2021", "40 M 757 44 3 2021", "40 X 0 48 5 2021"},
			map[string]string{"40": "13"},
			map[string]string{"44": "13"},
		},
		{
			"partners with nothing but TOTAL do not take the chapters from the world",
			[]string{"40 M 0 TOTAL 100 2022", "40 M 0 44 10 2022", "40 M 757 TOTAL 60 2022", "40 M 276 TOTAL 40 2022"},
			map[string]string{"40": "100"},
			map[string]string{"44": "10"},
		},
		{
			"months count where there is no year",
			[]string{"40 M 757 44 10 2022", "40 M 757 44 1 202201", "40 M 276 44 1 202202", "40 M 757 44 2 202101", "40 M 757 44 3 202102"},
			map[string]string{"40": "15"},
			map[string]string{"44": "15"},
		},
		{
			"what is split by customs procedure, transport or second partner counts where it is alone",
			[]string{
				"40 M 757 44 10 2022", "40 M 757 44 6 2022 HS 0 C00 2100", "40 M 757 44 4 2022 HS 0 C00 3200",
				"276 M 757 44 6 2022 HS 0 C00 2100", "276 M 757 44 4 2022 HS 0 C00 3200", "276 M 757 4401 99 2022",
			},
			map[string]string{"40": "10", "276": "10"},
			map[string]string{"44": "20"},
		},
		{
			"the newest revision counts",
			[]string{"40 M 757 44 10 2022 H5", "40 M 757 44 11 2022 H6", "40 M 757 44 12 2022 HS"},
			map[string]string{"40": "11"},
			map[string]string{"44": "11"},
		},
		{
			"re-imports are a part of imports and a sum of their own",
			[]string{"40 M 757 44 10 2022", "40 RM 757 44 4 2022"},
			map[string]string{"40": "10"},
			map[string]string{"44": "10"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			in := "reporterCode,flowCode,partnerCode,cmdCode,primaryValue,period,classificationCode,partner2Code,customsCode,motCode\n"
			for _, r := range tt.rows {
				fields := strings.Fields(r)
				for len(fields) < 10 {
					fields = append(fields, "")
				}
				in += strings.Join(fields, ",") + "\n"
			}
			imports(t, s, in)
			wantImports(t, s, ByReporter, tt.byReporter)
			wantImports(t, s, ByChapter, tt.byChapter)
			records, _, err := readAll(strings.NewReader(in), CSV)
			if err != nil {
				t.Fatal(err)
			}
			wantOracle(t, s, records)
		})
	}
}

func TestBalance(t *testing.T) {
	s := openStore(t)
	imports(t, s, rows("AUT,Import,CHE,44,10,2022", "AUT,Export,CHE,44,7.5,2022", "AUT,Import,DEU,44,1,2022"))
	got, err := s.Summarize(t.Context(), ByPartner, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 2 || got.Rows[0].Key != "757" || got.Rows[0].Balance == nil || *got.Rows[0].Balance != -2500 ||
		got.Rows[1].Balance != nil || *got.Totals.Balance != -3500 || got.Totals.Records != 3 {
		t.Errorf("got %+v", got)
	}
	if _, err := s.Summarize(t.Context(), "weight", Filter{}); !errors.Is(err, ErrBy) {
		t.Errorf("got %v", err)
	}
}

// TestSumsAfterRandomImports keeps the sums through many small imports of all
// kinds of records, and compares after each.
func TestSumsAfterRandomImports(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	for round := range 4 {
		s := openStore(t)
		var all []Record
		for range 25 {
			in := "reporterCode,flowCode,partnerCode,cmdCode,primaryValue,period,classificationCode,partner2Code,customsCode,motCode\n"
			for range 1 + random.IntN(40) {
				in += strings.Join([]string{
					pick("40", "276"), pick("M", "M", "X", "RX"), pick("0", "757", "842"), pick("TOTAL", "44", "4401", "4402", "48", "480100", "440110"),
					fmt.Sprintf("%d.%03d", random.IntN(1e6), random.IntN(1000)), pick("2021", "2022", "202201", "202202"),
					pick("HS", "H5", "H6"), pick("0", "0", "0", "56"), pick("C00", "C00", "C05"), pick("0", "0", "2100"),
				}, ",") + "\n"
			}
			imports(t, s, in)
			records, _, err := readAll(strings.NewReader(in), CSV)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, records...)
		}
		wantOracle(t, s, all)
		reporter, partner := 40, 757
		for _, f := range []Filter{{Reporter: &reporter}, {Partner: &partner}, {Year: 2022}, {Flow: "X"}, {Reporter: &reporter, Year: 2021, Flow: "M"}} {
			for _, by := range []By{ByPartner, ByReporter, ByYear, ByChapter} {
				wantSummary(t, s, by, f, oracle(all, by, f))
			}
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

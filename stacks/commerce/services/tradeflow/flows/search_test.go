package flows

import (
	"bytes"
	"encoding/csv"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFindPagesCoverEverythingOnce(t *testing.T) {
	s := openStore(t)
	file := generatedCSV(1003)
	imports(t, s, string(file))
	records, _, err := readAll(bytes.NewReader(file), CSV)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []Key
	for _, r := range records {
		want = append(want, r.Key)
	}
	slices.SortFunc(want, func(a, b Key) int { return compareKeys(&a, &b) })
	after := ""
	for range 20 {
		page, err := s.Find(t.Context(), Filter{}, after, 100, testAreas())
		if err != nil {
			t.Fatal(err)
		}
		if page.Total != 1003 {
			t.Fatalf("total is %d", page.Total)
		}
		for _, f := range page.Items {
			got = append(got, Key{
				Reporter: f.Reporter.Code, Period: f.Period, Flow: f.Flow, Partner: f.Partner.Code,
				Cmd: f.Cmd, Class: f.Class, Partner2: f.Partner2, Customs: f.Customs, Mot: f.Mot,
			})
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %d flows, want %d in order", len(got), len(want))
	}
}

func TestFindFilters(t *testing.T) {
	s := openStore(t)
	imports(t, s, rows(
		"AUT,Import,CHE,44,1,2022", "AUT,Import,CHE,4401,1,2022", "AUT,Import,CHE,440110,1,2021", "AUT,Export,CHE,48,1,2022",
		"DEU,Import,W00,TOTAL,1,2022", "DEU,Import,_X ,44,1,2022",
	))
	number := func(n int) *int { return &n }
	tests := []struct {
		name string
		f    Filter
		want int
	}{
		{"all", Filter{}, 6},
		{"reporter", Filter{Reporter: number(276)}, 2},
		{"partner", Filter{Partner: number(757)}, 4},
		{"the world as partner", Filter{Partner: number(World)}, 1},
		{"year", Filter{Year: 2022}, 5},
		{"flow", Filter{Flow: "X"}, 1},
		{"prefix", Filter{HS: "44"}, 4},
		{"half a prefix", Filter{HS: "4"}, 5},
		{"exact code", Filter{HS: "440110"}, 1},
		{"total", Filter{HS: "TOTAL"}, 1},
		{"several", Filter{Reporter: number(40), Partner: number(757), Year: 2022, HS: "44", Flow: "M"}, 2},
		{"none", Filter{HS: "99"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			page, err := s.Find(t.Context(), tt.f, "", 0, testAreas())
			if err != nil || page.Total != tt.want || len(page.Items) != tt.want || page.Next != "" || page.Items == nil {
				t.Errorf("got %d of %d, next %q, %v, want %d", len(page.Items), page.Total, page.Next, err, tt.want)
			}
		})
	}
	for _, mark := range []string{"x", "e30", "?", "bm90IGpzb24"} {
		if _, err := s.Find(t.Context(), Filter{}, mark, 0, testAreas()); mark != "e30" && !errors.Is(err, ErrAfter) {
			t.Errorf("mark %q: %v", mark, err)
		}
	}
}

func TestExportCanBeImported(t *testing.T) {
	s := openStore(t)
	imports(t, s, string(generatedCSV(2500)))
	imports(t, s, `{"data":[{"period":"202203","reporterCode":40,"partnerCode":757,"partner2Code":56,"flowCode":"RM","classificationCode":"H6",
		"cmdCode":"4401","customsCode":"C05","motCode":2100,"qtyUnitCode":8,"qty":10.5,"netWgt":9,"grossWgt":11,"cifvalue":7,"fobvalue":6,"primaryValue":7}]}`)
	var out bytes.Buffer
	if err := s.Export(t.Context(), &out, Filter{}, testAreas()); err != nil {
		t.Fatal(err)
	}
	wantCounts(t, imports(t, s, out.String()), 2501, 0, 0, 2501, 0)
	other := openStore(t)
	wantCounts(t, imports(t, other, out.String()), 2501, 2501, 0, 0, 0)
	var again bytes.Buffer
	if err := other.Export(t.Context(), &again, Filter{}, testAreas()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("the second export differs from the first")
	}
}

func TestExportIsSafeForSpreadsheets(t *testing.T) {
	s := openStore(t)
	imports(t, s, "reporter_code,flow_code,partner_code,cmd_code,primary_value,period\n40,M,7,44,1,2022\n")
	areas := NewAreas([]Area{{40, "AUT", `=HYPERLINK("http://evil.example")`}, {7, "@XX", "+1"}})
	var out bytes.Buffer
	if err := s.Export(t.Context(), &out, Filter{}, areas); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, cell := range lines[1] {
		if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
			t.Errorf("the cell %q is a formula", cell)
		}
	}
}

func TestExportReportsABrokenReader(t *testing.T) {
	s := openStore(t)
	imports(t, s, string(generatedCSV(2500)))
	if err := s.Export(t.Context(), &narrow{left: 20_000}, Filter{}, testAreas()); !errors.Is(err, errNarrow) {
		t.Errorf("got %v", err)
	}
}

var errNarrow = errors.New("reader is gone")

// narrow takes a few bytes.
type narrow struct{ left int }

func (n *narrow) Write(b []byte) (int, error) {
	if n.left -= len(b); n.left < 0 {
		return 0, errNarrow
	}
	return len(b), nil
}

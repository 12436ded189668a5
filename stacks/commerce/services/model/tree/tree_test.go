package tree

import (
	"bytes"
	"compress/gzip"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	_ "modernc.org/sqlite"
)

func openStore(t *testing.T) *Store {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "model.db")+"?_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	script, err := os.ReadFile("../../../init.model.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(script)); err != nil {
		t.Fatal(err)
	}
	return NewStore(db)
}

func seeded(t *testing.T) *Store {
	t.Helper()
	s := openStore(t)
	if ok, err := s.Seed(t.Context()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	return s
}

func TestSamples(t *testing.T) {
	s := seeded(t)
	if again, err := s.Seed(t.Context()); err != nil || again {
		t.Errorf("seeded again: %t, %v", again, err)
	}
	level := 2
	chapters, err := s.FindCommodities(t.Context(), CommodityQuery{Level: &level, Limit: MaxLimit})
	if err != nil || chapters.Total != 97 { // 01 to 97 without 77, and 99
		t.Errorf("%d chapters, %v", chapters.Total, err)
	}
	all, err := s.FindCommodities(t.Context(), CommodityQuery{Limit: MaxLimit})
	if err != nil || all.Items[0].Code != Total {
		t.Fatal(err)
	}
	known := map[string]bool{"": true}
	for _, c := range all.Items {
		if !known[c.Parent] || c.Parent != parentOf(c.Code) || !codeFormat.MatchString(c.Code) || c.Text == "" {
			t.Errorf("commodity %+v does not hang on the tree", c)
		}
		known[c.Code] = true
	}
	countries, err := s.FindCountries(t.Context(), CountryQuery{Former: true, Limit: MaxLimit})
	if err != nil {
		t.Fatal(err)
	}
	letters := map[string]int{}
	for _, c := range countries.Items {
		if c.ISO != "" {
			if other, twice := letters[c.ISO]; twice {
				t.Errorf("%s is %d and %d", c.ISO, other, c.Code)
			}
			letters[c.ISO] = c.Code
		} else if c.Kind != Former {
			t.Errorf("%+v has no letters", c)
		}
	}
	for iso, code := range map[string]int{
		"W00": 0, "CHE": 757, "FRA": 251, "ITA": 380, "NOR": 579, "USA": 842, "IND": 699, "BEL": 56, "LUX": 442,
		"S19": 490, "E19": 568, "F19": 577, "X1": 837, "XX": 839, "_X": 899,
	} {
		if letters[iso] != code {
			t.Errorf("%s is %d, want %d", iso, letters[iso], code)
		}
	}
}

func TestFindCommodities(t *testing.T) {
	s := seeded(t)
	number := func(n int) *int { return &n }
	tests := []struct {
		name  string
		q     CommodityQuery
		first string
		total int
	}{
		{"word", CommodityQuery{Text: "oak"}, "440791", 1},
		{"word in capitals", CommodityQuery{Text: "OAK"}, "440791", 1},
		{"beginning of a code", CommodityQuery{Text: "8507"}, "8507", 2},
		{"children", CommodityQuery{Parent: "4407"}, "440710", 5},
		{"level and text", CommodityQuery{Text: "wood", Level: number(2)}, "44", 2},
		{"wildcards are text", CommodityQuery{Text: "%"}, "2208", 1},
		{"nothing", CommodityQuery{Text: "unobtainium"}, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.FindCommodities(t.Context(), tt.q)
			if err != nil || got.Total != tt.total || len(got.Items) != tt.total || tt.total > 0 && got.Items[0].Code != tt.first {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestPagesCoverEverythingOnce(t *testing.T) {
	s := seeded(t)
	seen := map[string]int{}
	q := CommodityQuery{Limit: 10}
	for {
		page, err := s.FindCommodities(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Items {
			seen[c.Code]++
		}
		if q.After = page.Next; q.After == "" {
			if len(seen) != page.Total {
				t.Errorf("saw %d of %d", len(seen), page.Total)
			}
			break
		}
	}
	for code, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", code, n)
		}
	}
	countries := 0
	cq := CountryQuery{Limit: 50}
	for {
		page, err := s.FindCountries(t.Context(), cq)
		if err != nil {
			t.Fatal(err)
		}
		countries += len(page.Items)
		if page.Next == "" {
			if countries != page.Total {
				t.Errorf("saw %d of %d countries", countries, page.Total)
			}
			return
		}
		cq.After = &page.Items[len(page.Items)-1].Code
	}
}

func TestFindCountries(t *testing.T) {
	s := seeded(t)
	for name, tt := range map[string]struct {
		q    CountryQuery
		want string // code:total
	}{
		"letters":      {CountryQuery{Text: "chn"}, "156:1"},
		"name":         {CountryQuery{Text: "switz"}, "757:1"},
		"area":         {CountryQuery{Kind: "area", Text: "bunkers"}, "837:1"},
		"former":       {CountryQuery{Text: "Czechoslovakia", Former: true}, "200:1"},
		"former is no": {CountryQuery{Text: "Czechoslovakia"}, ":0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.FindCountries(t.Context(), tt.q)
			first := ""
			if len(got.Items) > 0 {
				first = fmt.Sprint(got.Items[0].Code)
			}
			if have := fmt.Sprintf("%s:%d", first, got.Total); err != nil || have != tt.want {
				t.Errorf("got %s, %v, want %s", have, err, tt.want)
			}
		})
	}
}

func TestCommodity(t *testing.T) {
	s := seeded(t)
	b, err := s.Commodity(t.Context(), "4407")
	if err != nil {
		t.Fatal(err)
	}
	var above, below []string
	for _, c := range b.Ancestors {
		above = append(above, c.Code)
	}
	for _, c := range b.Children {
		below = append(below, c.Code)
	}
	if b.Code != "4407" || strings.Join(above, " ") != "TOTAL 44" || strings.Join(below, " ") != "440710 440711 440712 440791 440792" {
		t.Errorf("got %s, above %v, below %v", b.Code, above, below)
	}
	if root, err := s.Commodity(t.Context(), "total"); err != nil || len(root.Ancestors) != 0 || len(root.Children) != 97 {
		t.Errorf("root: %d above, %d below, %v", len(root.Ancestors), len(root.Children), err)
	}
	for _, code := range []string{"", "7777", "44%", "x"} {
		if _, err := s.Commodity(t.Context(), code); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", code, err)
		}
	}
}

const reference = `{"more":false,"classCode":"HS","results":[
	{"id":"TOTAL","text":"Total of all","parent":"#","isLeaf":"0","aggrLevel":0,"standardUnitAbbr":"n/a"},
	{"id":"01","text":"01 - Animals; live","parent":"TOTAL","isLeaf":"0","aggrLevel":2,"standardUnitAbbr":"n/a"},
	{"id":"0101","text":"0101 - Horses","parent":"01","isLeaf":"0","aggrLevel":4,"standardUnitAbbr":"n/a"},
	{"id":"010121","text":"010121 - Horses; breeding","parent":"0101","isLeaf":"1","aggrLevel":6,"standardUnitAbbr":"u"},
	{"id":"1","text":"bad code","parent":"TOTAL"},
	{"id":"0102","text":"0102 - ","parent":"01"},
	{"id":"0103","text":"0103 - Swine","parent":"02"}],"count":1}`

func TestImportReference(t *testing.T) {
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	z.Write([]byte(reference))
	z.Close()
	for name, in := range map[string][]byte{"plain": []byte(reference), "gzip": compressed.Bytes()} {
		t.Run(name, func(t *testing.T) {
			s := seeded(t)
			r, err := s.ImportReference(t.Context(), iotest.HalfReader(bytes.NewReader(in)))
			if err != nil || r.Received != 7 || r.Inserted != 0 || r.Updated != 4 || r.Unchanged != 0 || r.Rejected != 3 || len(r.Rejections) != 3 {
				t.Fatalf("got %+v, %v", r, err)
			}
			again, err := s.ImportReference(t.Context(), bytes.NewReader(in))
			if err != nil || again.Unchanged != 4 || again.Updated+again.Inserted != 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
			c, err := s.Commodity(t.Context(), "010121")
			if err != nil || c.Text != "Horses; breeding" || c.Unit != "u" || !c.Leaf {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

func TestBrokenReferenceChangesNothing(t *testing.T) {
	s := seeded(t)
	before, err := s.FindCommodities(t.Context(), CommodityQuery{Limit: MaxLimit})
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"nothing": "", "a list": "[]", "no results": `{"more":false}`, "results are no list": `{"results":{}}`,
		"cut": reference[:len(reference)-40], "cut after the list": reference[:strings.LastIndex(reference, "]")+1],
		"an entry is a number": `{"results":[{"id":"01","text":"01 - x"},7]}`, "not gzip": "\x1f\x8bxxxxxxxx",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.ImportReference(t.Context(), strings.NewReader(in))
			if _, ok := errors.AsType[*FormatError](err); !ok {
				t.Errorf("got %v", err)
			}
		})
	}
	after, err := s.FindCommodities(t.Context(), CommodityQuery{Limit: MaxLimit})
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the commodities changed, %v", err)
	}
}

// TestWholeReference imports the reference of the API where FAIRLEAD_DATA has it,
// otherwise one that is generated in its size and shape.
func TestWholeReference(t *testing.T) {
	var b []byte
	if dir := os.Getenv("FAIRLEAD_DATA"); dir != "" {
		var err error
		if b, err = os.ReadFile(filepath.Join(dir, "comtrade-hs-reference.json.gz")); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Log("FAIRLEAD_DATA is not set: with a generated reference")
		b = generatedReference()
	}
	s := seeded(t)
	r, err := s.ImportReference(t.Context(), bytes.NewReader(b))
	if err != nil || r.Received != 8262 || r.Rejected != 0 || r.Inserted+r.Updated+r.Unchanged != 8262 {
		t.Fatalf("got %+v, %v", r, err)
	}
	again, err := s.ImportReference(t.Context(), bytes.NewReader(b))
	if err != nil || again.Unchanged != 8262 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func generatedReference() []byte {
	var b bytes.Buffer
	b.WriteString(`{"more":false,"results":[{"id":"TOTAL","text":"Total","parent":"#","isLeaf":"0","aggrLevel":0,"standardUnitAbbr":"n/a"}`)
	n := 1
	add := func(id, parent, leaf string) {
		if n < 8262 {
			n++
			fmt.Fprintf(&b, `,{"id":%q,"text":"%s - Goods, of kind %d","parent":%q,"isLeaf":%q,"aggrLevel":%d,"standardUnitAbbr":"kg"}`, id, id, n, parent, leaf, len(id))
		}
	}
	for chapter := 1; chapter <= 97; chapter++ {
		c := fmt.Sprintf("%02d", chapter)
		add(c, Total, "0")
		for heading := 1; heading <= 14; heading++ {
			h := fmt.Sprintf("%s%02d", c, heading)
			add(h, c, "0")
			for sub := 10; sub <= 60; sub += 10 {
				add(fmt.Sprintf("%s%02d", h, sub), h, "1")
			}
		}
	}
	b.WriteString("]}")
	return b.Bytes()
}

func FuzzReference(f *testing.F) {
	f.Add([]byte(reference))
	f.Add([]byte(`{"results":[]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		report := Report{}
		list, err := readReference(bytes.NewReader(in), &report)
		if err == nil && len(list)+report.Rejected != report.Received {
			t.Errorf("%d taken, %d rejected of %d", len(list), report.Rejected, report.Received)
		}
		for _, c := range list {
			if !codeFormat.MatchString(c.Code) || c.Text == "" {
				t.Errorf("got %+v", c)
			}
		}
	})
}

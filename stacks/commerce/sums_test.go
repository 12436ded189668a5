package commerce_test

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// record is one flow of a file, read by this test and by nothing of the system.
type record struct {
	reporter, partner, cmd string // areas by their letters
	year                   int
	value                  *big.Rat
}

// file is something to import.
type file struct {
	plain, gzipped []byte
	records        []record
	n              int
}

// files returns the records of the world, as JSON, and those by partner, as CSV:
// the real ones where FAIRLEAD_DATA has them, generated ones otherwise.
func files(t *testing.T) (world, partners file) {
	t.Helper()
	if dir := os.Getenv("FAIRLEAD_DATA"); dir != "" {
		world = load(t, filepath.Join(dir, "comtrade-eu-imports-world.json.gz"))
		partners = load(t, filepath.Join(dir, "comtrade-eu-imports-by-partner.csv.gz"))
		if world.n, partners.n = 5004, 173_358; t.Failed() {
			return world, partners
		}
	} else {
		t.Log("FAIRLEAD_DATA is not set: with generated data")
		world, partners = generate()
	}
	world.records, partners.records = readWorld(t, world.plain), readPartners(t, partners.plain)
	if len(world.records) != world.n || len(partners.records) != partners.n {
		t.Fatalf("%d and %d records, want %d and %d", len(world.records), len(partners.records), world.n, partners.n)
	}
	return world, partners
}

func load(t *testing.T, path string) file {
	t.Helper()
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return file{plain: plain, gzipped: packed}
}

// generate returns files in the shape of the real ones: the same reporters with the
// world as partner in one and with single partners in the other, areas that are no
// countries, padded letters, levels of which some are missing.
func generate() (world, partners file) {
	reporters := strings.Fields("AUT BEL CZE DEU DNK FRA GRC ITA LUX SWE")
	others := strings.Fields("AUT BEL CHE CHN DEU FRA ITA NOR USA IND S19 E19 F19 X1 XX _X")
	codes := strings.Fields("44 4401 4403 440711 440712 48 4801 480100 49 94 9401 940330")
	seed := uint64(7)
	random := func(n int) int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33) % n
	}
	amount := func() string {
		s := strconv.Itoa(1 + random(90_000_000))
		if random(4) > 0 {
			s += fmt.Sprintf(".%03d", random(1000))
		}
		return s
	}
	var list []map[string]any
	var table bytes.Buffer
	w := csv.NewWriter(&table)
	write := func(row ...string) {
		if err := w.Write(row); err != nil {
			panic(err)
		}
	}
	write("reporter_iso", "reporter_desc", "flow_desc", "partner_iso", "partner_desc", "cmd_code", "cmd_desc", "primary_value", "ref_year")
	for year := 2018; year <= 2022; year++ {
		for r, reporter := range reporters {
			for _, code := range codes {
				list = append(list, map[string]any{
					"typeCode": "C", "freqCode": "A", "refPeriodId": year*10000 + 101, "refYear": year, "refMonth": 52, "period": strconv.Itoa(year),
					"reporterISO": reporter, "flowCode": "M", "partnerCode": 0, "partnerISO": "W00", "partner2Code": 0, "classificationCode": "H5",
					"cmdCode": code, "customsCode": "C00", "mosCode": "0 ", "motCode": 0, "qtyUnitCode": 8, "qty": json.Number(amount()),
					"netWgt": nil, "cifvalue": json.Number(amount()), "fobvalue": nil, "primaryValue": json.Number(amount()), "isAggregate": true,
				})
				// One reporter has no partners in one year: there the world counts.
				if r == 0 && year == 2020 {
					continue
				}
				for _, partner := range others {
					if partner == reporter || random(3) == 0 {
						continue
					}
					partners.n++
					write(reporter, "Reporter", "Import", fmt.Sprintf("%-3s", partner), "Partner, of some name", code, `Goods; "of a kind"`, amount(), strconv.Itoa(year))
				}
			}
		}
	}
	w.Flush()
	world.n = len(list)
	answer, err := json.Marshal(map[string]any{"elapsedTime": "0 secs", "count": len(list), "data": list, "error": ""})
	if err != nil {
		panic(err)
	}
	world.plain, partners.plain = answer, table.Bytes()
	world.gzipped, partners.gzipped = pack(world.plain), pack(partners.plain)
	return world, partners
}

func pack(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func readWorld(t *testing.T, b []byte) []record {
	t.Helper()
	var answer struct {
		Data []struct {
			ReporterISO, PartnerISO, CmdCode string
			RefYear                          int
			PrimaryValue                     json.Number
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		t.Fatal(err)
	}
	var list []record
	for _, d := range answer.Data {
		list = append(list, record{d.ReporterISO, d.PartnerISO, d.CmdCode, d.RefYear, exact(t, d.PrimaryValue.String())})
	}
	return list
}

func readPartners(t *testing.T, b []byte) []record {
	t.Helper()
	table, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range table[0] {
		column[name] = i
	}
	var list []record
	for _, row := range table[1:] {
		year, err := strconv.Atoi(row[column["ref_year"]])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, record{
			row[column["reporter_iso"]], strings.TrimSpace(row[column["partner_iso"]]), row[column["cmd_code"]], year, exact(t, row[column["primary_value"]]),
		})
	}
	return list
}

func exact(t *testing.T, s string) *big.Rat {
	t.Helper()
	v, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is not a number", s)
	}
	return v
}

// summary is the answer to one question for sums.
type summary struct {
	By   string
	Rows []struct {
		Key, ISO, Name string
		Imports        string
		Records        int
	}
	Totals struct {
		Imports string
		Records int
	}
}

// expected works the sums out from the records: all of them are annual imports, of
// which per reporter, partner and year the shortest codes count, and the world only
// where there is no other partner.
func expected(records []record, by string) map[string]*big.Rat {
	type group struct {
		reporter, partner string
		year              int
	}
	level := func(cmd string) int {
		if cmd == "TOTAL" {
			return 0
		}
		return len(cmd)
	}
	shortest := map[group]int{}
	named := map[group]bool{} // with partner "": the reporter has partners in that year
	for _, r := range records {
		if by == "chapter" && level(r.cmd) < 2 {
			continue
		}
		g := group{r.reporter, r.partner, r.year}
		if n, ok := shortest[g]; !ok || level(r.cmd) < n {
			shortest[g] = level(r.cmd)
		}
		if r.partner != "W00" {
			named[group{r.reporter, "", r.year}] = true
		}
	}
	sums := map[string]*big.Rat{}
	for _, r := range records {
		n, ok := shortest[group{r.reporter, r.partner, r.year}]
		if !ok || level(r.cmd) != n || r.partner == "W00" && named[group{r.reporter, "", r.year}] {
			continue
		}
		key := map[string]string{"partner": r.partner, "reporter": r.reporter, "year": strconv.Itoa(r.year), "chapter": r.cmd[:2]}[by]
		if sums[key] == nil {
			sums[key] = new(big.Rat)
		}
		sums[key].Add(sums[key], r.value)
	}
	return sums
}

func (s *stack) testSums(t *testing.T, u *user, records []record) {
	t.Helper()
	for _, by := range []string{"partner", "reporter", "year", "chapter"} {
		want := expected(records, by)
		var got summary
		u.want(t, http.StatusOK, &got, http.MethodGet, "/api/flows/summary?by="+by, nil)
		total := new(big.Rat)
		for _, row := range got.Rows {
			key := row.Key
			if by == "partner" || by == "reporter" {
				key = row.ISO
			}
			if want[key] == nil || want[key].Cmp(exact(t, row.Imports)) != 0 {
				t.Errorf("by %s: %s is %s, want %v", by, key, row.Imports, want[key])
				continue
			}
			if by != "year" && row.Name == "" {
				t.Errorf("by %s: %s has no name", by, key)
			}
			total.Add(total, want[key])
		}
		if len(got.Rows) != len(want) || total.Cmp(exact(t, got.Totals.Imports)) != 0 {
			t.Errorf("by %s: %d rows with a total of %s, want %d and %s", by, len(got.Rows), got.Totals.Imports, len(want), total.FloatString(3))
		}
	}
}

func (s *stack) testSearch(t *testing.T, u *user, records []record) {
	t.Helper()
	type page struct {
		Items []struct {
			Reporter, Partner struct{ ISO string }
			Period            int
			Cmd, Value        string
		}
		Total int
		Next  string
	}
	// All pages of one search, against the records themselves.
	var want []string
	for _, r := range records {
		if r.reporter == "FRA" && r.year == 2021 && strings.HasPrefix(r.cmd, "44") {
			want = append(want, fmt.Sprintf("%s %s %s", r.partner, r.cmd, r.value.FloatString(3)))
		}
	}
	var got []string
	after := ""
	for {
		var p page
		u.want(t, http.StatusOK, &p, http.MethodGet, "/api/flows?reporter=fra&year=2021&hs=44&flow=M&limit=200&after="+after, nil)
		if p.Total != len(want) {
			t.Fatalf("total is %d, want %d", p.Total, len(want))
		}
		for _, f := range p.Items {
			if f.Reporter.ISO != "FRA" || f.Period != 2021 {
				t.Fatalf("found %+v", f)
			}
			got = append(got, fmt.Sprintf("%s %s %s", f.Partner.ISO, f.Cmd, exact(t, f.Value).FloatString(3)))
		}
		if after = p.Next; after == "" {
			break
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if i := slices.IndexFunc(got, func(s string) bool { _, ok := slices.BinarySearch(want, s); return !ok }); i >= 0 || len(got) != len(want) {
		t.Errorf("found %d flows, want %d; first that is not wanted: %d", len(got), len(want), i)
	}

	// The export holds every flow, with its exact value.
	status, body := u.call(t, http.MethodGet, "/api/flows/export.csv", nil)
	table, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
	if err != nil || status != http.StatusOK || len(table) != 1+len(records) {
		t.Fatalf("export: %d, %d lines, %v, want %d lines", status, len(table), err, 1+len(records))
	}
	value := slices.Index(table[0], "primary_value")
	have, all := new(big.Rat), new(big.Rat)
	for _, row := range table[1:] {
		have.Add(have, exact(t, row[value]))
	}
	for _, r := range records {
		all.Add(all, r.value)
	}
	if have.Cmp(all) != 0 {
		t.Errorf("the exported values add up to %s, want %s", have.FloatString(3), all.FloatString(3))
	}
}

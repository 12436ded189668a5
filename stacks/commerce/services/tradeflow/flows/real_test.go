package flows

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestRealData imports the real files, twice, and compares all sums with those of
// the oracle over both. Without FAIRLEAD_DATA it does the same with a generated
// file; the stack's own test does it through the door.
func TestRealData(t *testing.T) {
	var files [][]byte
	if dir := os.Getenv("FAIRLEAD_DATA"); dir != "" {
		for _, name := range []string{"comtrade-eu-imports-world.json.gz", "comtrade-eu-imports-by-partner.csv.gz"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, b)
		}
	} else {
		t.Log("FAIRLEAD_DATA is not set: with generated data")
		files = [][]byte{zip(generatedCSV(9000))}
	}
	s := openStore(t)
	var all []Record
	for round := range 2 {
		for _, file := range files {
			report, err := s.Import(t.Context(), bytes.NewReader(file), Detect, testAreas())
			if err != nil || report.Rejected > 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			if round == 1 {
				wantCounts(t, report, report.Received, 0, 0, report.Received, 0)
				continue
			}
			wantCounts(t, report, report.Received, report.Received, 0, 0, 0)
			records, _, err := readAll(bytes.NewReader(file), Detect)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, records...)
		}
	}
	wantOracle(t, s, all)
}

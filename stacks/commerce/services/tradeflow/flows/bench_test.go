package flows

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// partnerFile returns the by-partner rows: the real ones where FAIRLEAD_DATA names
// their folder, otherwise as many generated ones of the same shape.
func partnerFile(tb testing.TB) []byte {
	tb.Helper()
	if dir := os.Getenv("FAIRLEAD_DATA"); dir != "" {
		b, err := os.ReadFile(filepath.Join(dir, "comtrade-eu-imports-by-partner.csv.gz"))
		if err != nil {
			tb.Fatal(err)
		}
		return unzip(tb, b)
	}
	return generatedCSV(allRows)
}

const allRows = 173_358

func BenchmarkImport(b *testing.B) {
	file := partnerFile(b)
	for b.Loop() {
		s := openStore(b)
		report, err := s.Import(b.Context(), bytes.NewReader(file), Detect, testAreas())
		if err != nil || report.Inserted != allRows {
			b.Fatal(report, err)
		}
	}
}

func BenchmarkImportAgain(b *testing.B) {
	file := partnerFile(b)
	s := openStore(b)
	if _, err := s.Import(b.Context(), bytes.NewReader(file), Detect, testAreas()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		report, err := s.Import(b.Context(), bytes.NewReader(file), Detect, testAreas())
		if err != nil || report.Unchanged != allRows {
			b.Fatal(report, err)
		}
	}
}

// BenchmarkBare is the peer of BenchmarkImport: a program that puts the same rows
// into SQLite in one transaction with one prepared statement, and nothing else: no
// checks, no areas, no sums, and no way to send them twice.
func BenchmarkBare(b *testing.B) {
	file := partnerFile(b)
	for b.Loop() {
		db := openDatabase(b, filepath.Join(b.TempDir(), "bare.db"))
		if err := bareImport(b.Context(), db, bytes.NewReader(file)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSummary(b *testing.B) {
	s := openStore(b)
	if _, err := s.Import(b.Context(), bytes.NewReader(partnerFile(b)), Detect, testAreas()); err != nil {
		b.Fatal(err)
	}
	for _, by := range []By{ByPartner, ByReporter, ByYear, ByChapter} {
		b.Run(string(by), func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Summarize(b.Context(), by, Filter{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNaiveSummary is the peer of BenchmarkSummary: plain SQL over all rows.
func BenchmarkNaiveSummary(b *testing.B) {
	s := openStore(b)
	if _, err := s.Import(b.Context(), bytes.NewReader(partnerFile(b)), Detect, testAreas()); err != nil {
		b.Fatal(err)
	}
	for _, by := range []string{"partner", "reporter", "period", "substr(cmd, 1, 2)"} {
		b.Run(by, func(b *testing.B) {
			for b.Loop() {
				rows, err := s.db.QueryContext(b.Context(), `SELECT `+by+`, SUM(value) FROM flows GROUP BY 1`)
				if err != nil {
					b.Fatal(err)
				}
				for rows.Next() {
				}
				if err := rows.Err(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	s := openStore(b)
	if _, err := s.Import(b.Context(), bytes.NewReader(partnerFile(b)), Detect, testAreas()); err != nil {
		b.Fatal(err)
	}
	partner := 276
	for name, f := range map[string]Filter{"all": {}, "partner": {Partner: &partner}, "hs": {HS: "440710"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.Find(context.Background(), f, "", 50, testAreas()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkExport(b *testing.B) {
	s := openStore(b)
	if _, err := s.Import(b.Context(), bytes.NewReader(partnerFile(b)), Detect, testAreas()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Export(b.Context(), io.Discard, Filter{}, testAreas()); err != nil {
			b.Fatal(err)
		}
	}
}

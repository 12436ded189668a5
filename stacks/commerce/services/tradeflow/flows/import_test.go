package flows

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// rows makes a CSV upload of lines without the header.
func rows(lines ...string) string { return header + strings.Join(lines, "\n") + "\n" }

// imports stores an upload that must be good.
func imports(t *testing.T, s *Store, in string) Report {
	t.Helper()
	report, err := s.Import(t.Context(), strings.NewReader(in), Detect, testAreas())
	if err != nil || !report.Complete {
		t.Fatalf("import: %+v, %v", report, err)
	}
	return report
}

func wantCounts(t *testing.T, r Report, received, inserted, updated, unchanged, rejected int) {
	t.Helper()
	got := [...]int{r.Received, r.Inserted, r.Updated, r.Unchanged, r.Rejected}
	if want := [...]int{received, inserted, updated, unchanged, rejected}; got != want {
		t.Errorf("received, inserted, updated, unchanged, rejected = %v, want %v", got, want)
	}
}

func TestImportIsIdempotent(t *testing.T) {
	s := openStore(t)
	in := rows("AUT,Import,CHE,4401,7.087,2022", "AUT,Import,DEU,4401,1,2022", "AUT,Export,CHE,4401,2,2022")
	wantCounts(t, imports(t, s, in), 3, 3, 0, 0, 0)
	wantCounts(t, imports(t, s, in), 3, 0, 0, 3, 0)
	wantCounts(t, imports(t, s, strings.Replace(in, "7.087", "7.088", 1)), 3, 0, 1, 2, 0)
	wantImports(t, s, ByYear, map[string]string{"2022": "8.088"})
}

func TestImportOfTheSameKeyTwiceInOneUpload(t *testing.T) {
	s := openStore(t)
	in := rows("AUT,Import,CHE,4401,1,2022", "AUT,Import,CHE,4401,1,2022", "AUT,Import,CHE,4401,5,2022")
	wantCounts(t, imports(t, s, in), 3, 1, 1, 1, 0)
	wantImports(t, s, ByYear, map[string]string{"2022": "5"})
	// Again: the first row changes it, the last one changes it back.
	wantCounts(t, imports(t, s, in), 3, 0, 2, 1, 0)
	wantImports(t, s, ByYear, map[string]string{"2022": "5"})
}

func TestImportKeepsWhatIsNotTold(t *testing.T) {
	s := openStore(t)
	full := `{"data":[{"period":"2022","reporterCode":40,"partnerCode":757,"flowCode":"M","classificationCode":"HS","cmdCode":"4401",
		"qtyUnitCode":8,"qty":10,"netWgt":9,"grossWgt":11,"cifvalue":7,"fobvalue":6,"primaryValue":7}]}`
	wantCounts(t, imports(t, s, full), 1, 1, 0, 0, 0)
	wantCounts(t, imports(t, s, rows("AUT,Import,CHE,4401,7,2022")), 1, 0, 0, 1, 0)
	wantCounts(t, imports(t, s, rows("AUT,Import,CHE,4401,8,2022")), 1, 0, 1, 0, 0)
	page, err := s.Find(t.Context(), Filter{}, "", 0, testAreas())
	if err != nil || len(page.Items) != 1 {
		t.Fatal(page, err)
	}
	f := page.Items[0]
	if f.Value != 8000 || f.CIF == nil || *f.CIF != 7000 || f.FOB == nil || *f.FOB != 6000 || f.Quantity == nil || *f.Quantity != 10_000 ||
		f.NetWeight == nil || *f.NetWeight != 9000 || f.GrossWeight == nil || *f.GrossWeight != 11_000 || f.Unit == nil || *f.Unit != 8 {
		t.Errorf("got %+v", f)
	}
}

func TestImportReportsWhatItRejects(t *testing.T) {
	s := openStore(t)
	var lines []string
	for range 30 {
		lines = append(lines, "AUT,Import,ZZZ,4401,1,2022", "AUT,Import,CHE,440,1,2022")
	}
	lines = append(lines, "AUT,Import,CHE,4401,1,2022")
	r := imports(t, s, rows(lines...))
	wantCounts(t, r, 61, 1, 0, 0, 60)
	if r.Reasons[UnknownArea] != 30 || r.Reasons[BadCommodity] != 30 || len(r.Reasons) != 2 {
		t.Errorf("reasons %v", r.Reasons)
	}
	want := RejectedRecord{At: 2, Reason: UnknownArea, Detail: `partner "ZZZ" is not an area that is known`}
	if len(r.Rejections) != firstRejected || r.Rejections[0] != want {
		t.Errorf("got %d rejections, first %+v, want %d and %+v", len(r.Rejections), r.Rejections[0], firstRejected, want)
	}
}

func TestImportThatBreaksKeepsWholeBatches(t *testing.T) {
	const batchSize = 700
	s := openStore(t)
	s.batch = batchSize
	file := generatedCSV(2*batchSize + 500)
	gone := errors.New("connection reset")
	cut := bytes.LastIndexByte(file[:len(file)-1], '\n') + 1
	report, err := s.Import(t.Context(), io.MultiReader(bytes.NewReader(file[:cut]), iotest.ErrReader(gone)), Detect, testAreas())
	if !errors.Is(err, gone) || report.Complete {
		t.Fatalf("got %+v, %v", report, err)
	}
	wantCounts(t, report, 2*batchSize+499, 2*batchSize, 0, 0, 0)
	if report.Batches != 2 || report.NotStored != 499 {
		t.Errorf("got %d batches, %d not stored, want 2 and 499", report.Batches, report.NotStored)
	}
	again := imports(t, s, string(file))
	wantCounts(t, again, 2*batchSize+500, 500, 0, 2*batchSize, 0)
}

func TestImportRemovesTheSamples(t *testing.T) {
	s := openStore(t)
	n, err := s.Seed(t.Context())
	if err != nil || n < 200 {
		t.Fatal(n, err)
	}
	if again, err := s.Seed(t.Context()); err != nil || again != 0 {
		t.Fatalf("seeded again: %d, %v", again, err)
	}
	// An upload of which nothing is taken is no reason to remove them.
	if r := imports(t, s, rows("AUT,Import,ZZZ,44,1,2022")); r.SamplesRemoved != 0 {
		t.Errorf("removed %d", r.SamplesRemoved)
	}
	r := imports(t, s, rows("AUT,Import,CHE,44,1,2022"))
	if r.SamplesRemoved != n {
		t.Errorf("removed %d, want %d", r.SamplesRemoved, n)
	}
	wantImports(t, s, ByReporter, map[string]string{"40": "1"})
	if again, err := s.Seed(t.Context()); err != nil || again != 0 {
		t.Errorf("seeded again: %d, %v", again, err)
	}
	if r := imports(t, s, rows("AUT,Import,CHE,44,1,2022")); r.SamplesRemoved != 0 || r.Unchanged != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestImportWhoseSumsDoNotFit(t *testing.T) {
	s := openStore(t)
	var lines []string
	for i := range 93 {
		lines = append(lines, fmt.Sprintf("AUT,Import,CHE,44%02d,100000000000000,2022", i))
	}
	report, err := s.Import(t.Context(), strings.NewReader(rows(lines...)), Detect, testAreas())
	var format *FormatError
	if !errors.As(err, &format) || report.Inserted != 0 || report.NotStored != 93 {
		t.Fatalf("got %+v, %v", report, err)
	}
	wantImports(t, s, ByYear, map[string]string{})
	imports(t, s, rows(lines[:90]...))
	wantImports(t, s, ByYear, map[string]string{"2022": "9000000000000000"})
	// What does not fit into one stored sum, and what does not into an answer.
	for _, line := range []string{"AUT,Import,CHE,4499,100000000000000,2022", "AUT,Import,CHE,4498,100000000000000,2022"} {
		imports(t, s, rows(line))
	}
	if _, err := s.Import(t.Context(), strings.NewReader(rows("AUT,Import,CHE,4497,100000000000000,2022")), Detect, testAreas()); !errors.As(err, &format) {
		t.Errorf("got %v", err)
	}
	imports(t, s, rows("AUT,Import,CHE,4801,100000000000000,2021", "AUT,Import,DEU,4801,100000000000000,2021"))
	if _, err := s.Summarize(t.Context(), ByReporter, Filter{}); !errors.Is(err, ErrSumTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Summarize(t.Context(), ByYear, Filter{}); !errors.Is(err, ErrSumTooLarge) {
		t.Errorf("got %v", err)
	}
}

// TestTwoInstancesImportAtOnce has two stores on one file, as two instances of the
// service, import overlapping uploads.
func TestTwoInstancesImportAtOnce(t *testing.T) {
	const batchSize = 500
	path := filepath.Join(t.TempDir(), "trade.db")
	script, err := os.ReadFile("../../../init.trade.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDatabase(t, path).Exec(string(script)); err != nil {
		t.Fatal(err)
	}
	file := generatedCSV(6 * batchSize)
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := Report{}
	for range 2 {
		s := NewStore(openDatabase(t, path))
		s.batch = batchSize
		for range 2 {
			wg.Go(func() {
				report, err := s.Import(context.Background(), bytes.NewReader(file), Detect, testAreas())
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				total.Inserted += report.Inserted
				total.Unchanged += report.Unchanged
			})
		}
	}
	wg.Wait()
	if total.Inserted != 6*batchSize || total.Unchanged != 18*batchSize {
		t.Errorf("inserted %d, unchanged %d, want %d and %d", total.Inserted, total.Unchanged, 6*batchSize, 18*batchSize)
	}
	s := NewStore(openDatabase(t, path))
	records, _, err := readAll(bytes.NewReader(file), CSV)
	if err != nil {
		t.Fatal(err)
	}
	wantOracle(t, s, records)
}

func TestImportWaitsForALockedDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trade.db")
	db := openDatabase(t, path)
	script, err := os.ReadFile("../../../init.trade.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(script)); err != nil {
		t.Fatal(err)
	}
	other := openDatabase(t, path)
	tx, err := other.Begin() // immediate: it has the lock
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA busy_timeout = 1"); err != nil { // so that our own patience is tested
		t.Fatal(err)
	}
	s := NewStore(db)
	done := make(chan error, 1)
	tried := make(chan struct{})
	go func() {
		in := io.MultiReader(strings.NewReader(rows("AUT,Import,CHE,44,1,2022")), &notice{tried})
		_, err := s.Import(context.Background(), in, CSV, testAreas())
		done <- err
	}()
	<-tried
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tx, err = other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	cancel()
	if _, err := s.Import(ctx, strings.NewReader(rows("AUT,Import,CHE,44,2,2022")), CSV, testAreas()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// notice closes its channel when it is read, and is at its end.
type notice struct{ read chan struct{} }

func (n *notice) Read([]byte) (int, error) {
	close(n.read)
	return 0, io.EOF
}

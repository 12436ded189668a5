package flows

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"testing"
)

// testISO lists areas with their letters; the last ones are no countries.
var testISO = []struct {
	iso  string
	code int
}{
	{"AUT", 40},
	{"BEL", 56},
	{"BGR", 100},
	{"HRV", 191},
	{"CYP", 196},
	{"CZE", 203},
	{"DNK", 208},
	{"EST", 233},
	{"FIN", 246},
	{"FRA", 251},
	{"DEU", 276},
	{"GRC", 300},
	{"HUN", 348},
	{"IRL", 372},
	{"ITA", 380},
	{"LVA", 428},
	{"LTU", 440},
	{"LUX", 442},
	{"MLT", 470},
	{"NLD", 528},
	{"POL", 616},
	{"PRT", 620},
	{"ROU", 642},
	{"SVK", 703},
	{"SVN", 705},
	{"ESP", 724},
	{"SWE", 752},
	{"CHE", 757},
	{"NOR", 579},
	{"USA", 842},
	{"IND", 699},
	{"CHN", 156},
	{"BRA", 76},
	{"JPN", 392},
	{"GBR", 826},
	{"TUR", 792},
	{"W00", 0},
	{"S19", 490},
	{"E19", 568},
	{"F19", 577},
	{"X1", 837},
	{"XX", 839},
	{"_X", 899},
}

// testAreas knows what the model service knows on a fresh system.
var testAreas = sync.OnceValue(func() *Areas {
	b, err := os.ReadFile("../../model/tree/countries.csv")
	if err != nil {
		panic(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		panic(err)
	}
	var list []Area
	for _, row := range rows[1:] {
		code, err := strconv.Atoi(row[0])
		if err != nil {
			panic(err)
		}
		list = append(list, Area{Code: code, ISO: row[1], Name: row[3]})
	}
	return NewAreas(list)
})

// generatedCSV returns rows of the shape of the by-partner file: 27 reporters,
// five years, levels 2, 4 and 6 of which some are missing, padded letters, values
// with up to three decimals. The same number of rows gives the same bytes.
func generatedCSV(rows int) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.Write([]string{"reporter_iso", "reporter_desc", "flow_desc", "partner_iso", "partner_desc", "cmd_code", "cmd_desc", "primary_value", "ref_year"})
	codes := []string{"44", "4401", "4403", "4407", "440710", "48", "4801", "480100", "94", "9403", "940330"}
	seed := uint64(12345)
	random := func(n int) int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33) % n
	}
	n := 0
	for variant := 0; n < rows; variant++ {
		for year := 2018; year <= 2022 && n < rows; year++ {
			for r := 0; r < 27 && n < rows; r++ {
				for _, code := range codes {
					if len(code) == 6 {
						// More rounds give other subheadings, so that any number of rows has
						// keys of its own.
						code = fmt.Sprintf("%s%02d", code[:4], (30+variant)%100)
					} else if variant > 0 {
						continue
					}
					for p := range testISO {
						if p == r || testISO[p].iso == "W00" || random(4) == 0 || n >= rows {
							continue
						}
						value := strconv.Itoa(1 + random(90_000_000))
						switch random(4) {
						case 0:
						case 1:
							value += "." + strconv.Itoa(1+random(9))
						default:
							value += fmt.Sprintf(".%03d", 1+random(999))
						}
						w.Write([]string{
							testISO[r].iso, "Reporter", "Import", fmt.Sprintf("%-3s", testISO[p].iso), "Partner, of some name",
							code, "Some commodity, \"quoted\"", value, strconv.Itoa(year),
						})
						n++
					}
				}
			}
		}
		if variant > 90 {
			panic("generatedCSV: too many rows asked for")
		}
	}
	w.Flush()
	return b.Bytes()
}

func unzip(tb testing.TB, b []byte) []byte {
	tb.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		tb.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func bareImport(ctx context.Context, db *sql.DB, r io.Reader) error {
	if _, err := db.ExecContext(ctx, `CREATE TABLE flows (reporter TEXT, reporter_name TEXT, flow TEXT, partner TEXT, partner_name TEXT,
		cmd TEXT, cmd_name TEXT, value INTEGER, year INTEGER, PRIMARY KEY (reporter, year, flow, partner, cmd)) WITHOUT ROWID`); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert, err := tx.PrepareContext(ctx, `INSERT INTO flows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer insert.Close()
	in := csv.NewReader(r)
	in.ReuseRecord = true
	if _, err := in.Read(); err != nil {
		return err
	}
	for {
		f, err := in.Read()
		if errors.Is(err, io.EOF) {
			return tx.Commit()
		}
		if err != nil {
			return err
		}
		value, err := ParseAmount(f[7])
		if err != nil {
			return err
		}
		year, err := strconv.Atoi(f[8])
		if err != nil {
			return err
		}
		if _, err := insert.ExecContext(ctx, f[0], f[1], f[2], f[3], f[4], f[5], f[6], int64(value), year); err != nil {
			return err
		}
	}
}

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	_ "modernc.org/sqlite" // the driver of the bare program
)

const tradeFile = "comtrade-eu-imports-by-partner.csv.gz"

// tradeRows is the size of the real file; the generated one has as many.
const tradeRows = 173_358

// trade: the import of the by-partner file through the door against a bare
// program, and the summary against plain SQL.
func (b *bench) trade() error {
	rounds := min(b.rounds, 3)
	var imports, bares, importRatios, summaries, naives, summaryRatios []float64
	source := "generated rows"
	for range rounds {
		one, err := b.tradeRound()
		if err != nil {
			return err
		}
		source = one.source
		imports, bares = append(imports, one.imported.Seconds()), append(bares, one.bare.Seconds())
		importRatios = append(importRatios, one.imported.Seconds()/one.bare.Seconds())
		summaries, naives = append(summaries, one.summary.Seconds()*1e3), append(naives, one.naive.Seconds()*1e3)
		summaryRatios = append(summaryRatios, one.summary.Seconds()/one.naive.Seconds())
	}
	b.table("Trade data ("+source+")", "| what | fairlead | peer | ratio, median | wanted |",
		fmt.Sprintf("| import of %d rows | through the door: %.2f s | bare program, one transaction: %.2f s | %.2f | at most 3 |", tradeRows, median(imports), median(bares), median(importRatios)),
		fmt.Sprintf("| summary by partner | through the door: %.1f ms | plain GROUP BY: %.1f ms | %.2f | at most 0.5 |", median(summaries), median(naives), median(summaryRatios)))
	return nil
}

type tradeRound struct {
	source                         string
	imported, bare, summary, naive time.Duration
}

func (b *bench) tradeRound() (r tradeRound, err error) {
	u, err := b.up(filepath.Join("stacks", "commerce"), "/api/model/countries")
	if err != nil {
		return r, err
	}
	defer func() {
		u.stop()
		err = errors.Join(err, os.RemoveAll(u.data))
	}()
	c, err := u.login()
	if err != nil {
		return r, err
	}
	data, source, err := c.rows()
	if err != nil {
		return r, err
	}
	r.source = source

	begin := time.Now()
	var report struct{ Received, Inserted, Rejected int }
	if err := c.call("POST", "/api/flows/import", "text/csv", data, &report); err != nil {
		return r, err
	}
	r.imported = time.Since(begin)
	if report.Received != tradeRows || report.Rejected > 0 {
		return r, fmt.Errorf("import: %+v, want %d received and none rejected", report, tradeRows)
	}

	path := filepath.Join(b.dir, "bare.db")
	begin = time.Now()
	db, err := bareImport(path, data)
	if err != nil {
		return r, err
	}
	r.bare = time.Since(begin)
	defer func() { err = errors.Join(err, db.Close(), removeDatabase(path)) }()

	var mine, plain []time.Duration
	for range 11 {
		begin = time.Now()
		if err := c.call("GET", "/api/flows/summary?by=partner", "", nil, nil); err != nil {
			return r, err
		}
		mine = append(mine, time.Since(begin))
		begin = time.Now()
		if err := naiveSummary(db); err != nil {
			return r, err
		}
		plain = append(plain, time.Since(begin))
	}
	r.summary, r.naive = median(mine), median(plain)
	return r, nil
}

// client talks to the commerce system as its administrator.
type client struct {
	address, token string
	http           *http.Client
}

func (u *up) login() (*client, error) {
	password, err := os.ReadFile(filepath.Join(u.data, "secrets", "ADMIN_PASSWORD"))
	if err != nil {
		return nil, err
	}
	c := &client{address: u.address, http: &http.Client{Timeout: 5 * time.Minute}}
	body, err := json.Marshal(map[string]string{"username": "admin", "password": string(bytes.TrimSpace(password))})
	if err != nil {
		return nil, err
	}
	var tokens struct {
		AccessToken string `json:"access_token"`
	}
	if err := c.call("POST", "/api/auth/login", "application/json", body, &tokens); err != nil {
		return nil, err
	}
	c.token = tokens.AccessToken
	return c, nil
}

func (c *client) call(method, path, mediaType string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+c.address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// rows returns the real file, if FAIRLEAD_DATA names a folder that has it, else
// as many generated rows of its shape.
func (c *client) rows() (data []byte, source string, err error) {
	if dir := os.Getenv("FAIRLEAD_DATA"); dir != "" {
		f, err := os.Open(filepath.Join(dir, tradeFile))
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, "", err
		}
		data, err := io.ReadAll(z)
		return data, "real rows", err
	}
	var list struct {
		Items []struct{ ISO string }
	}
	if err := c.call("GET", "/api/model/countries?limit=500", "", nil, &list); err != nil {
		return nil, "", err
	}
	if len(list.Items) < 60 {
		return nil, "", fmt.Errorf("only %d countries", len(list.Items))
	}
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	_ = w.Write([]string{"reporter_iso", "reporter_desc", "flow_desc", "partner_iso", "partner_desc", "cmd_code", "cmd_desc", "primary_value", "ref_year"})
	n := 0
	for year := 2018; ; year++ {
		for r := range 25 {
			for p := 25; p < len(list.Items); p++ {
				for cmd := 4401; cmd <= 4421; cmd++ {
					if n == tradeRows {
						w.Flush()
						return out.Bytes(), "generated rows", w.Error()
					}
					n++
					_ = w.Write([]string{
						list.Items[r].ISO, "Reporter", "Import", list.Items[p].ISO, "Partner", strconv.Itoa(cmd),
						"Wood and articles of wood, a heading with a text of the usual length", fmt.Sprintf("%d.%03d", n*37%1_000_000, n%1000), strconv.Itoa(year),
					})
				}
			}
		}
	}
}

// bareImport is what a program without anything around it does: read the rows,
// insert them in one transaction, with the same key.
func bareImport(path string, data []byte) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`CREATE TABLE flows (year INTEGER, reporter TEXT, partner TEXT, flow TEXT, cmd TEXT, value REAL,
		PRIMARY KEY (year, reporter, partner, flow, cmd)) WITHOUT ROWID`); err != nil {
		return nil, err
	}
	tx, err := db.Begin()
	if err != nil {
		return nil, err
	}
	insert, err := tx.Prepare(`INSERT INTO flows VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET value = excluded.value`)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bufio.NewReader(bytes.NewReader(data)))
	r.ReuseRecord = true
	if _, err := r.Read(); err != nil {
		return nil, err
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		year, err := strconv.Atoi(row[8])
		if err != nil {
			return nil, err
		}
		value, err := strconv.ParseFloat(row[7], 64)
		if err != nil {
			return nil, err
		}
		if _, err := insert.Exec(year, row[0], row[3], row[2], row[5], value); err != nil {
			return nil, err
		}
	}
	return db, tx.Commit()
}

func naiveSummary(db *sql.DB) error {
	rows, err := db.Query("SELECT partner, sum(value), count(*) FROM flows GROUP BY partner ORDER BY 2 DESC")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var partner string
		var sum float64
		var n int
		if err := rows.Scan(&partner, &sum, &n); err != nil {
			return err
		}
	}
	return rows.Err()
}

func removeDatabase(path string) error {
	var errs []error
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

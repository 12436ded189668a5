package database

import (
	"context"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/system"
)

func ensure(t *testing.T, dir, script string) (string, []string, error) {
	t.Helper()
	var path string
	if script != "" {
		path = filepath.Join(t.TempDir(), "init.sql")
		if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	urls, created, err := Ensure(context.Background(), dir, []system.Database{{Name: "trade", Engine: "sqlite", Init: path}})
	return urls["trade"], created, err
}

func count(t *testing.T, rawURL string) int {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "sqlite" {
		t.Fatalf("url %q: scheme is not sqlite (%v)", rawURL, err)
	}
	db, err := sql.Open("sqlite", u.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM flows").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInitScriptRunsOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space", "databases")
	script := "CREATE TABLE flows (id INTEGER PRIMARY KEY); INSERT INTO flows VALUES (1), (2);"
	for i, want := range [][]string{{"trade"}, nil} {
		u, created, err := ensure(t, dir, script)
		if err != nil {
			t.Fatal(err)
		}
		if len(created) != len(want) {
			t.Errorf("call %d created %v, want %v", i+1, created, want)
		}
		if n := count(t, u); n != 2 {
			t.Errorf("call %d: %d rows, want 2", i+1, n)
		}
	}
	info, err := os.Stat(Path(dir, "trade"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode().Perm())
	}
}

func TestDatabaseIsInWALModeAndOneFile(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := ensure(t, dir, "CREATE TABLE flows (id INTEGER)"); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "trade", "*"))
	if err != nil || len(files) != 1 || files[0] != Path(dir, "trade") {
		t.Errorf("files are %v, want one (%v)", files, err)
	}
	db, err := sql.Open("sqlite", Path(dir, "trade"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var mode string
	if err := db.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("journal mode is %q, want wal (%v)", mode, err)
	}
}

func TestBrokenInitScriptLeavesNoDatabase(t *testing.T) {
	dir := t.TempDir()
	_, _, err := ensure(t, dir, "CREATE TABLE flows (id INTEGER); INSERT INTO nowhere VALUES (1);")
	if err == nil || !strings.Contains(err.Error(), "create database trade: run init.sql: ") {
		t.Fatalf("error is %v, want one that names the database and the script", err)
	}
	if _, err := os.Stat(Path(dir, "trade")); !os.IsNotExist(err) {
		t.Errorf("the database exists after a broken script (%v)", err)
	}
	u, _, err := ensure(t, dir, "CREATE TABLE flows (id INTEGER)")
	if err != nil {
		t.Fatalf("the mended script fails: %v", err)
	}
	if n := count(t, u); n != 0 {
		t.Errorf("%d rows, want 0", n)
	}
}

func TestDatabaseWithoutScriptIsAnEmptyFile(t *testing.T) {
	u, created, err := ensure(t, t.TempDir(), "")
	if err != nil || len(created) != 1 {
		t.Fatalf("created %v, error %v", created, err)
	}
	if !strings.HasPrefix(u, "sqlite:///") {
		t.Errorf("url is %q", u)
	}
}

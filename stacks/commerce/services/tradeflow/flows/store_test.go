package flows

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"
)

// openDatabase returns an empty trade database in a temporary folder, opened as
// fairlead/service/sqlite does.
func openDatabase(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	return db
}

func openStore(tb testing.TB) *Store {
	tb.Helper()
	db := openDatabase(tb, filepath.Join(tb.TempDir(), "trade.db"))
	script, err := os.ReadFile("../../../init.trade.sql")
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := db.Exec(string(script)); err != nil {
		tb.Fatal(err)
	}
	return NewStore(db)
}

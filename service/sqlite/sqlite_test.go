package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"fairlead/service"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// empty makes an empty database whose path is awkward in a URI.
func empty(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a b?c#d%20é")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "trade.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// address is the URL as internal/database writes it.
func address(path string) string {
	return "sqlite://" + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", " ", "%20").Replace(path)
}

func TestSettings(t *testing.T) {
	path := empty(t)
	db, err := open(address(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "busy_timeout": "10000", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v", pragma, got, err)
		}
	}
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE t (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); err != nil {
		t.Errorf("the database is elsewhere: %v", err)
	}
}

func TestTransactionsTakeTheLockAtOnce(t *testing.T) {
	db, err := open(address(empty(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE t (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	first, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Rollback()
	reader, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Errorf("a reader waits for the writer: %v", err)
	}
	if err := reader.Rollback(); err != nil {
		t.Error(err)
	}
	impatient, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	if _, err := impatient.ExecContext(t.Context(), "PRAGMA busy_timeout = 0"); err != nil {
		t.Fatal(err)
	}
	if second, err := impatient.BeginTx(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("two writers at once: %v", err)
		second.Rollback()
	}
}

func TestMissingFileIsNotMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	db, err := open(address(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the file was made")
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "sqlite:", "sqlite:a.db", "sqlite://a.db", "sqlite://host/a.db", "mysql:///a.db", "sqlite:///a.db?mode=ro", "sqlite:///%zz"} {
		if _, err := open(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestServiceDatabase(t *testing.T) {
	path := empty(t)
	t.Setenv("FAIRLEAD_SOCKET", filepath.Join(t.TempDir(), "s"))
	run := func(setup func(s *service.Service) error) error {
		ctx, cancel := context.WithCancel(t.Context())
		return service.Run(ctx, func(s *service.Service) error {
			defer cancel()
			return setup(s)
		})
	}
	use := func(name string) func(s *service.Service) error {
		return func(s *service.Service) error {
			_, err := s.Database(name).ExecContext(s.Context(), "CREATE TABLE t_"+strings.ReplaceAll(name, "-", "_")+" (n INTEGER)")
			return err
		}
	}
	t.Run("alone", func(t *testing.T) {
		t.Setenv("DATABASE_URL", address(path))
		if err := run(use("first")); err != nil {
			t.Error(err)
		}
	})
	t.Run("by name", func(t *testing.T) {
		t.Setenv("DATABASE_URL_TRADE_FLOWS", address(path))
		if err := run(use("trade-flows")); err != nil {
			t.Error(err)
		}
	})
	t.Run("by another name", func(t *testing.T) {
		t.Setenv("DATABASE_URL", address(path))
		t.Setenv("DATABASE_URL_TRADE", address(path))
		if err := run(use("other")); err == nil || !strings.Contains(err.Error(), "DATABASE_URL_OTHER is not set") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("missing file", func(t *testing.T) {
		t.Setenv("DATABASE_URL_TRADE", address(path+".no"))
		var inside error
		err := run(func(s *service.Service) error {
			inside = use("trade")(s)
			return nil // setup need not look
		})
		if err == nil || !strings.Contains(err.Error(), `set up: open database "trade": `) || inside == nil {
			t.Errorf("got %v, inside %v", err, inside)
		}
	})
	t.Run("unknown engine", func(t *testing.T) {
		t.Setenv("DATABASE_URL_TRADE", "oracle://u:secret@x")
		if err := run(use("trade")); err == nil || !strings.Contains(err.Error(), `import _ "fairlead/service/oracle"`) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	})
}

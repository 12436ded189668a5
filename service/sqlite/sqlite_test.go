package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"fairlead/service"
	"fairlead/test/await"
)

func TestMain(m *testing.M) {
	await.Goroutines(m)
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

// TestConditionsAreNoDefects breaks a database in the ways that are no fault of the
// program, and in one that is.
func TestConditionsAreNoDefects(t *testing.T) {
	tests := []struct {
		name, before, statement string
		status                  int
		public                  string
	}{
		{"locked", "PRAGMA busy_timeout = 0", "INSERT INTO t VALUES (1)", 503, "the database is busy; try again"},
		{"read-only", "PRAGMA query_only = ON", "INSERT INTO t VALUES (1)", 503, "the database cannot be written at present"},
		{"full", "PRAGMA max_page_count = 1", "INSERT INTO u VALUES (zeroblob(100000))", 503, "the database cannot be written at present"},
		{"wrong statement", "", "INSRT INTO t", 0, ""},
		{"constraint", "", "INSERT INTO u VALUES (NULL)", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db, err := open(address(empty(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.ExecContext(t.Context(), "CREATE TABLE t (n INTEGER); CREATE TABLE u (b BLOB NOT NULL)"); err != nil {
				t.Fatal(err)
			}
			if tt.name == "locked" {
				other, err := db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer other.Rollback()
			}
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.ExecContext(t.Context(), tt.before); err != nil {
				t.Fatal(err)
			}
			_, err = conn.ExecContext(t.Context(), tt.statement)
			if err == nil {
				t.Fatal("the statement succeeded")
			}
			if status, public := judge(fmt.Errorf("store: %w", err)); status != tt.status || public != tt.public {
				t.Errorf("%v is %d %q, want %d %q", err, status, public, tt.status, tt.public)
			}
		})
	}
	missing, err := open(address(filepath.Join(t.TempDir(), "none.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer missing.Close()
	if status, public := judge(missing.PingContext(t.Context())); status != 503 || public != "the database cannot be used at present" {
		t.Errorf("a missing file is %d %q", status, public)
	}
	if status, _ := judge(sql.ErrNoRows); status != 0 {
		t.Errorf("no rows are %d", status)
	}
}

// TestClientIsTold has a handler return the error of a database that cannot be
// written.
func TestClientIsTold(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	t.Setenv("FAIRLEAD_SOCKET", socket)
	t.Setenv("DATABASE_URL", address(empty(t)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- service.Run(ctx, func(s *service.Service) error {
			db := s.Database("notes")
			s.HTTP("POST /notes", func(_ http.ResponseWriter, r *http.Request) error {
				conn, err := db.Conn(r.Context())
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.ExecContext(r.Context(), "PRAGMA query_only = ON; CREATE TABLE t (n INTEGER)")
				return fmt.Errorf("store: %w", err)
			})
			return nil
		})
	}()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			for { // until the service listens
				conn, err := d.DialContext(ctx, "unix", socket)
				if err == nil || ctx.Err() != nil {
					return conn, err
				}
				runtime.Gosched()
			}
		},
	}, Timeout: 10 * time.Second}
	resp, err := client.Post("http://service/notes", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 503 || !strings.Contains(string(body), "the database cannot be written at present") {
		t.Errorf("the client is told %d %s, %v", resp.StatusCode, body, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

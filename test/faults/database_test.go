package faults_test

import (
	"context"
	"database/sql"
	"os"
	"testing"

	"fairlead/internal/control"
	"fairlead/test/await"
	"fairlead/test/stage"
)

const noting = `
system: noting
gateway: {listen: "127.0.0.1:0"}
services:
  notes:
    command: [SELF, part, notes]
    replicas: 2
    databases: [notes]
    bus: {group: notes, answers: ["notes.>"]}
databases:
  notes: {engine: sqlite, init: init.sql, owner: notes}
routes:
  GET /notes: {request: notes.count}
  POST /notes: {request: notes.add}
  POST /notes/brief: {request: notes.add, timeout: 400ms}
  /notes/http: {service: notes}
`

func newNotes(t *testing.T) (w *world, file string) {
	t.Helper()
	w = newWorld(t, noting)
	w.Write("init.sql", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;\n")
	w.Start()
	w.Ready()
	return w, w.Path(".fairlead/databases/notes/notes.db")
}

// notes returns how many notes there are.
func (w *world) notes(t *testing.T) string {
	t.Helper()
	a := w.ask("GET", "/notes", "")
	if a.status != 200 {
		t.Errorf("reading: %v", a)
	}
	return a.body
}

// TestDatabaseLocked has somebody else hold the write lock: readers do not
// notice, writers wait, and are told when it takes too long.
func TestDatabaseLocked(t *testing.T) {
	t.Parallel()
	w, file := newNotes(t)
	const media = "application/json"
	if a := w.ask("POST", "/notes", `{"text": "before"}`, "Content-Type", media); a.status != 200 {
		t.Fatal(a)
	}
	db, err := sql.Open("sqlite", "file:"+file+"?mode=rw&_pragma=busy_timeout(60000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	lock := func() *sql.Tx {
		tx, err := db.BeginTx(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}

	tx := lock()
	for range 5 {
		if n := w.notes(t); n != "1" {
			t.Errorf("readers see %s notes, want 1", n)
		}
	}
	a := w.ask("POST", "/notes/brief", `{"text": "too late"}`, "Content-Type", media)
	a.refused(t, 504, "did not answer in time")
	waiting := make(chan answer)
	go func() { waiting <- w.ask("POST", "/notes", `{"text": "patient"}`, "Content-Type", media) }()
	await.Until(t, "the writer waits at the service", func() bool {
		return requests(w.Service("notes")) >= 8 // 1 + 5 + 1 + 1
	})
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if a := <-waiting; a.status != 200 {
		t.Errorf("a writer that waited for a short lock got %v", a)
	}

	// Longer than SQLite's busy time-out of 10 s: an answer all the same.
	tx = lock()
	over := make(chan answer)
	go func() { over <- w.ask("POST", "/notes/http", "") }()
	a = w.ask("POST", "/notes", `{"text": "never"}`, "Content-Type", media)
	for _, a := range []answer{a, <-over} {
		a.refused(t, 503, "the database is busy; try again")
		if a.took.Seconds() > 25 {
			t.Errorf("a writer was held for %v", a.took)
		}
	}
	before := w.notes(t)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if a := w.ask("POST", "/notes", `{"text": "after"}`, "Content-Type", media); a.status != 200 {
		t.Errorf("after the lock: %v", a)
	}
	// Who was answered 504 knows nothing: "too late" may have been written.
	if after := w.notes(t); before+" "+after != "2 3" && before+" "+after != "3 4" {
		t.Errorf("there were %s notes, are %s, want one more than 2, or 3 with the late one", before, after)
	}
	_, out := w.Command("logs", "notes")
	contains(t, "the service's log", out, "database is locked")
}

// requests is how many requests the instances of a service got.
func requests(s control.ServiceStatus) (n uint64) {
	for _, i := range s.Instance {
		n += i.Requests
	}
	return n
}

// TestDatabaseReadOnly makes the database one that may only be read. Permissions
// of files do not bind root, as whom CI may run; the file's own mark does: a
// write version (byte 18 of its header) above 2 forbids every writer.
func TestDatabaseReadOnly(t *testing.T) {
	t.Parallel()
	w, file := newNotes(t)
	mark := func(version byte) {
		t.Helper()
		if _, err := stage.Call[control.ServiceRequest, control.ServiceStatus](w.System, control.VerbStop, control.ServiceRequest{Service: "notes"}); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{version}, 18); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := stage.Call[control.ServiceRequest, control.ServiceStatus](w.System, control.VerbStart, control.ServiceRequest{Service: "notes"}); err != nil {
			t.Fatal(err)
		}
	}
	const media = "application/json"
	if a := w.ask("POST", "/notes", `{"text": "before"}`, "Content-Type", media); a.status != 200 {
		t.Fatal(a)
	}
	mark(3)
	for range 4 {
		if n := w.notes(t); n != "1" {
			t.Errorf("readers see %s notes, want 1", n)
		}
		w.ask("POST", "/notes", `{"text": "no"}`, "Content-Type", media).refused(t, 503, "the database cannot be written at present")
		w.ask("POST", "/notes/http", "").refused(t, 503, "the database cannot be written at present")
	}
	if s := w.Service("notes"); s.Ready != 2 {
		t.Errorf("the service cannot be read any more: %+v", s)
	}
	_, out := w.Command("logs", "notes")
	contains(t, "the service's log", out, "attempt to write a readonly database")

	mark(2)
	if a := w.ask("POST", "/notes", `{"text": "after"}`, "Content-Type", media); a.status != 200 {
		t.Errorf("once it may be written again: %v", a)
	}
	if n := w.notes(t); n != "2" {
		t.Errorf("there are %s notes, want 2", n)
	}
}

// TestDatabaseDamaged: the file is damaged while the system is down.
func TestDatabaseDamaged(t *testing.T) {
	t.Parallel()
	w, file := newNotes(t)
	if code, out := w.Command("down"); code != 0 {
		t.Fatal(out)
	}
	w.Wait()
	if err := os.WriteFile(file, []byte("this is no database, whatever its name says, and it is long enough to be looked at as one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Start()
	await.Until(t, "status says why the service does not run", func() bool {
		_, out := w.Command("status")
		return containsAll(out, `open database "notes"`, "not a database")
	})
}

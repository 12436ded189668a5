package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "fairlead/service/sqlite" // the driver
	"fairlead/stacks/svom/notice"
)

func open(t *testing.T) *Store {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "b.db")+"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	script, err := os.ReadFile("../../../init.bursts.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), string(script)); err != nil {
		t.Fatal(err)
	}
	return New(db)
}

func made(burst string, i int) notice.Notice {
	return notice.Notice{
		ID: fmt.Sprintf("ivo://test#%s_%d", burst, i), Role: "test", Date: time.Date(2026, 1, 1, 0, i, 0, 0, time.UTC),
		Type: notice.Wakeup + i, Serial: 1, Instrument: "ECLAIRs", Burst: burst,
	}
}

func TestNoticesCountOnce(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	const bursts, each, copies = 4, 8, 3
	var all []notice.Notice
	for b := range bursts {
		for i := range each {
			for range copies {
				all = append(all, made(fmt.Sprintf("sb2601010%d", b), i))
			}
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var mu sync.Mutex // guards added
	added := 0
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < len(all); i += 4 {
				a, err := s.Add(context.WithoutCancel(ctx), all[i])
				if err != nil {
					t.Error(err)
					return
				}
				if a.Differs || a.Told {
					t.Errorf("got %+v", a)
				}
				if !a.Known {
					mu.Lock()
					added++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if added != bursts*each {
		t.Errorf("%d of %d were added", added, bursts*each)
	}
	list, err := s.Newest(ctx, 10)
	if err != nil || len(list) != bursts {
		t.Fatalf("got %v, %v", list, err)
	}
	for _, b := range list {
		got, notices, err := s.Burst(ctx, b.ID)
		if err != nil || got.Notices != each || b.Notices != each || len(notices) != each || notices[0].Type != notice.Wakeup {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestToldAndDiffering(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	n := made("sb26010101", 1)
	if a, err := s.Add(ctx, n); err != nil || a.Known || a.Revision != 1 {
		t.Fatalf("got %+v, %v", a, err)
	}
	if err := s.Told(ctx, n); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Add(ctx, n); err != nil || !a.Known || !a.Told || a.Differs || a.Burst.Notices != 1 {
		t.Errorf("again: got %+v, %v", a, err)
	}
	other := n
	other.Level = "N9"
	if a, err := s.Add(ctx, other); err != nil || !a.Known || !a.Differs || a.Burst.Level != "" {
		t.Errorf("other content: got %+v, %v", a, err)
	}
	n.Serial = 2
	if a, err := s.Add(ctx, n); err != nil || a.Known || a.Told || a.Revision != 2 || a.Burst.Notices != 2 {
		t.Errorf("next serial: got %+v, %v", a, err)
	}
	if _, _, err := s.Burst(ctx, "sb99999999"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

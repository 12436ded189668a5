package meter

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestMeterCounts(t *testing.T) {
	var m Meter
	m.Count(200, 0, 10)
	m.Count(204, Bounds[0], -1)
	m.Count(404, Bounds[0]+1, 5)
	m.Count(503, time.Hour, 0)
	m.Count(101, time.Hour, 1000)
	m.Count(0, 0, 0)
	m.Count(-5, 0, 0)
	m.Count(777, 0, 0)
	c := m.Counts()
	if want := [classes]uint64{3, 1, 2, 0, 1, 1}; c.Classes != want {
		t.Errorf("classes %v, want %v", c.Classes, want)
	}
	if c.Within[0] != 5 || c.Within[1] != 1 || c.Within[len(Bounds)] != 1 {
		t.Errorf("within %v", c.Within)
	}
	if want := 2*Bounds[0] + 1 + time.Hour; c.Took != want || c.Bytes != 1015 || c.Requests() != 8 {
		t.Errorf("took %v, bytes %d, requests %d", c.Took, c.Bytes, c.Requests())
	}
}

func TestRoutesBeyondTheMostAreCountedTogether(t *testing.T) {
	var ms Meters
	for i := range MaxRoutes + 10 {
		ms.Of(fmt.Sprintf("/%03d", i)).Count(200, 0, 0)
	}
	ms.Of("").Count(404, 0, 0)
	if first := ms.Of("/000"); first != ms.Of("/000") || first == ms.Of("/001") {
		t.Error("a route has not got one meter of its own")
	}
	all := ms.All()
	if len(all) != MaxRoutes+2 {
		t.Fatalf("%d routes, want %d", len(all), MaxRoutes+2)
	}
	other, none := all[MaxRoutes], all[MaxRoutes+1]
	if all[0].Route != "/000" || other.Route != Other || other.Classes[2] != 10 || none.Route != None || none.Classes[4] != 1 {
		t.Errorf("%v, %v, %v", all[0].Route, other, none)
	}
}

func TestAges(t *testing.T) {
	var a Ages
	first, second := a.Enter(), a.Enter()
	mark, open := a.Mark()
	if open != 2 {
		t.Fatalf("%d open, want 2", open)
	}
	third := a.Enter()
	later, _ := a.Mark()
	a.Leave(first)
	if a.Since(mark) != 1 || a.Since(later) != 2 || a.Open() != 2 {
		t.Errorf("open since the marks: %d and %d, in all %d", a.Since(mark), a.Since(later), a.Open())
	}
	a.Leave(second)
	a.Leave(third)
	if a.Since(later) != 0 || len(a.open) != 0 {
		t.Errorf("something is left: %v", a.open)
	}
}

func TestCountingAtOnce(t *testing.T) {
	var ms Meters
	var a Ages
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				age := a.Enter()
				ms.Of("/").Count(200, time.Millisecond, 1)
				a.Mark()
				a.Leave(age)
			}
		})
	}
	wg.Wait()
	if c := ms.Of("/").Counts(); c.Classes[2] != 8000 || c.Bytes != 8000 || a.Open() != 0 {
		t.Errorf("%+v, %d open", c, a.Open())
	}
}

func BenchmarkCount(b *testing.B) {
	var m Meter
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Count(200, 3*time.Millisecond, 280)
		}
	})
}

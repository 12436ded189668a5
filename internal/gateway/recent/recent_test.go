package recent

import "testing"

func TestMapIsBounded(t *testing.T) {
	m := New[int, int](10)
	for i := range 1000 {
		m.Store(i, i)
		if _, ok := m.Find(0); !ok {
			t.Fatal("forgot what is in use")
		}
	}
	if n := m.Len(); n > 20 {
		t.Fatalf("keeps %d", n)
	}
	m.Remove(0)
	if _, ok := m.Find(0); ok {
		t.Fatal("found what was removed")
	}
	m.Clear()
	if n := m.Len(); n != 0 {
		t.Fatalf("keeps %d after Clear", n)
	}
}

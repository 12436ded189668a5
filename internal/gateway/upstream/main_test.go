package upstream

import (
	"testing"

	"fairlead/test/await"
)

func TestMain(m *testing.M) { await.Goroutines(m) }

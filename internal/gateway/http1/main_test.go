package http1

import (
	"testing"

	"fairlead/test/await"
)

func TestMain(m *testing.M) {
	await.Goroutines(m)
}

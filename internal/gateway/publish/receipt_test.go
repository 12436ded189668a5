package publish

import (
	"encoding/json"
	"math"
	"testing"
)

func TestReceiptsAreJSON(t *testing.T) {
	for _, r := range []Receipt{
		{Stream: "data_vhf", Sequence: 1},
		{Stream: "data_vhf", Sequence: math.MaxUint64, Duplicate: true},
		{Stream: "DEAD", Sequence: 7, Quarantined: true},
		{Stream: "q=\"\\\n", Sequence: 7, Duplicate: true, Quarantined: true},
		{},
	} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.AppendJSON([]byte("x")); string(got) != "x"+string(want) {
			t.Errorf("%+v: %s, want %s", r, got[1:], want)
		}
	}
}

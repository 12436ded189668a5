package flows

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
)

func TestParseAmount(t *testing.T) {
	tests := []struct {
		name, in string
		want     Amount
		err      error
	}{
		{"whole", "24", 24_000, nil},
		{"three decimals", "7.087", 7_087, nil},
		{"trailing zeros of an answer", "6804128143.0", 6_804_128_143_000, nil},
		{"more zeros than three", "1.50000", 1_500, nil},
		{"exponent", "1.5e6", 1_500_000_000, nil},
		{"signed exponent", "15E+2", 1_500_000, nil},
		{"negative exponent", "15000e-6", 15, nil},
		{"negative exponent that does not fit", "1500e-6", 0, errDecimals},
		{"zero", "0.0", 0, nil},
		{"zero with a huge exponent", "0e30000", 0, nil},
		{"minus zero", "-0.0", 0, nil},
		{"leading zeros", "0000000000000000000000007.5", 7_500, nil},
		{"largest", "100000000000000", MaxAmount, nil},
		{"above the largest", "100000000000000.001", 0, errTooLarge},
		{"huge exponent", "1e300", 0, errTooLarge},
		{"absurd exponent", "1e99999", 0, errNotNumber},
		{"long", strings.Repeat("9", 400), 0, errTooLarge},
		{"four decimals", "0.0001", 0, errDecimals},
		{"negative", "-1", 0, errNegative},
		{"empty", "", 0, errNotNumber},
		{"sign only", "-", 0, errNotNumber},
		{"no whole part", ".5", 0, errNotNumber},
		{"no fraction", "5.", 0, errNotNumber},
		{"comma", "1,5", 0, errNotNumber},
		{"hex", "0x10", 0, errNotNumber},
		{"not a number", "NaN", 0, errNotNumber},
		{"spaces", " 5", 0, errNotNumber},
		{"two points", "1.2.3", 0, errNotNumber},
		{"two signs", "--1", 0, errNotNumber},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAmount(tt.in)
			if !errors.Is(err, tt.err) || err == nil && got != tt.want {
				t.Errorf("ParseAmount(%q) = %d, %v, want %d, %v", tt.in, int64(got), err, int64(tt.want), tt.err)
			}
		})
	}
}

func TestAmountJSON(t *testing.T) {
	for _, a := range []Amount{0, 1, -1, 10, 500, -15_240_045_720, 969_725_754_789_299, 1<<63 - 1} {
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Amount
		if err := json.Unmarshal(b, &back); err != nil || back != a {
			t.Errorf("%d became %s became %d, %v", int64(a), b, int64(back), err)
		}
	}
}

// FuzzParseAmount compares with exact rational arithmetic.
func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"7.087", "1e3", "-0.5", "0.0010", "12e-3", "99999999999999.999", "1.e5", ""} {
		f.Add(s)
	}
	limit := new(big.Rat).SetInt64(int64(MaxAmount))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseAmount(s)
		if len(s) > 60 || strings.ContainsAny(s, "/_xXpPbBoO+") {
			return // big.Rat reads more than we do
		}
		want, ok := new(big.Rat).SetString(s)
		if err != nil {
			return
		}
		if !ok {
			t.Fatalf("ParseAmount(%q) = %v, but it is no number", s, got)
		}
		want.Mul(want, big.NewRat(1000, 1))
		if want.Cmp(new(big.Rat).SetInt64(int64(got))) != 0 || want.Cmp(limit) > 0 {
			t.Fatalf("ParseAmount(%q) = %v, want %v thousandths", s, int64(got), want)
		}
		again, err := ParseAmount(got.String())
		if err != nil || again != got {
			t.Fatalf("%v is not read back: %v, %v", got, again, err)
		}
	})
}

// Package flows keeps trade flows: what one country reports to have traded with
// another, per commodity and period, in the form of the UN Comtrade API.
//
// It guarantees: values are exact, whole thousandths from the file to the sum. An
// import may be repeated at any time and changes nothing the second time. What was
// committed is in the sums, which are kept in the same transaction; a sum counts
// nothing together with its parts, see [Store.Summarize]. Memory is bounded,
// however large the upload or the export. Several processes may work on one
// database.
//
// It does not know who may do what, and gets the names of areas from its caller.
package flows

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Amount is an exact decimal number with three decimals, held as whole
// thousandths: 7.087 is 7087. It is never converted to a floating point number.
type Amount int64

// MaxAmount is the largest amount that one record may hold: 10^14 units.
const MaxAmount Amount = 100_000_000_000_000_000

// Errors of [ParseAmount].
var (
	errNotNumber = errors.New("not a decimal number")
	errDecimals  = errors.New("more than three decimals")
	errNegative  = errors.New("negative")
	errTooLarge  = errors.New("larger than 100000000000000")
)

// ParseAmount reads a JSON number ("7.087", "6804128143.0", "1.5e6") exactly.
// A number that three decimals cannot hold, a negative one and one above
// [MaxAmount] are errors; nothing is rounded.
func ParseAmount(s string) (Amount, error) {
	text := strings.TrimPrefix(s, "-")
	mantissa, exponent := text, 0
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		e, err := strconv.ParseInt(text[i+1:], 10, 16)
		if err != nil {
			return 0, errNotNumber
		}
		mantissa, exponent = text[:i], int(e)
	}
	whole, fraction, point := strings.Cut(mantissa, ".")
	if whole == "" || point && fraction == "" {
		return 0, errNotNumber
	}
	// The value is the digits as an integer times 10^scale thousandths.
	scale := 3 + exponent - len(fraction)
	var v Amount
	dropped := false
	for part, digits := range [2]string{whole, fraction} {
		for i := range len(digits) {
			d := digits[i]
			if d < '0' || d > '9' {
				return 0, errNotNumber
			}
			// Digits that stand below the thousandths must be zero.
			place := scale + len(digits) - 1 - i
			if part == 0 {
				place += len(fraction)
			}
			switch {
			case place < 0:
				dropped = dropped || d != '0'
			case v > MaxAmount/10:
				return 0, errTooLarge
			default:
				v = v*10 + Amount(d-'0')
			}
		}
	}
	if dropped {
		return 0, errDecimals
	}
	for ; scale > 0 && v != 0; scale-- {
		if v > MaxAmount/10 {
			return 0, errTooLarge
		}
		v *= 10
	}
	if v > MaxAmount {
		return 0, errTooLarge
	}
	if v != 0 && text != s {
		return 0, errNegative
	}
	return v, nil
}

// String returns the shortest exact form: "7.087", "24", "-0.5".
func (a Amount) String() string {
	sign, v := "", uint64(a)
	if a < 0 {
		sign, v = "-", -v
	}
	s := sign + strconv.FormatUint(v/1000, 10)
	if rest := v % 1000; rest != 0 {
		s += "." + strings.TrimRight(fmt.Sprintf("%03d", rest), "0")
	}
	return s
}

// plus adds, and reports whether the sum fits.
func (a Amount) plus(b Amount) (Amount, bool) {
	sum := a + b
	return sum, (sum < a) == (b < 0)
}

// MarshalJSON writes the amount as a string, so that no reader loses digits.
func (a Amount) MarshalJSON() ([]byte, error) {
	return []byte(`"` + a.String() + `"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (a *Amount) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	whole, fraction, _ := strings.Cut(s, ".")
	if len(fraction) > 3 {
		return fmt.Errorf("read amount %q: %w", s, errDecimals)
	}
	v, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", 3-len(fraction)), 10, 64)
	if err != nil {
		return fmt.Errorf("read amount %q: %w", s, errNotNumber)
	}
	*a = Amount(v)
	return nil
}

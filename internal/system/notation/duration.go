package notation

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

var (
	errDuration = errors.New("no duration")
	errSize     = errors.New("no size")
)

// ParseDuration reads a duration as the file writes it: Go's, with d for 24 hours in
// front, as in 7d or 1d12h. Without a unit, or with a sign, it is an error.
func ParseDuration(s string) (time.Duration, error) {
	if s == "" || strings.ContainsAny(s, "+-") {
		return 0, errDuration
	}
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		days, rest = "", s
	}
	var total time.Duration
	if ok {
		for i := range len(days) {
			if (days[i] < '0' || days[i] > '9') && days[i] != '.' {
				return 0, errDuration
			}
		}
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n > math.MaxInt64/2/float64(24*time.Hour) {
			return 0, errDuration
		}
		total = time.Duration(n * float64(24*time.Hour))
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || total+d < total {
			return 0, errDuration
		}
		total += d
	}
	return total, nil
}

// FormatDuration writes a duration as a person would: 24h, not 24h0m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizes = []struct {
	unit  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// ParseSize reads bytes, or KiB, MiB, GiB.
func ParseSize(s string) (int64, error) {
	for _, size := range sizes {
		digits, ok := strings.CutSuffix(s, size.unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || digits[0] == '+' || n > uint64(math.MaxInt64/size.bytes) {
			return 0, errSize
		}
		return int64(n) * size.bytes, nil
	}
	return 0, errSize
}

// FormatSize writes bytes in the largest unit that is exact.
func FormatSize(n int64) string {
	for _, size := range sizes {
		if n >= size.bytes && n%size.bytes == 0 {
			return strconv.FormatInt(n/size.bytes, 10) + size.unit
		}
	}
	return strconv.FormatInt(n, 10)
}

package system

import (
	"errors"
	"math"
	"net"
	"net/netip"
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

// formatDuration writes a duration as a person would: 24h, not 24h0m0s.
func formatDuration(d time.Duration) string {
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

// parseSize reads bytes, or KiB, MiB, GiB.
func parseSize(s string) (int64, error) {
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

// formatSize writes bytes in the largest unit that is exact.
func formatSize(n int64) string {
	for _, size := range sizes {
		if n >= size.bytes && n%size.bytes == 0 {
			return strconv.FormatInt(n/size.bytes, 10) + size.unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// checkAddress returns the host of host:port and advice if it is none. A port of 0
// lets the kernel choose.
func checkAddress(s string) (host, advice string, ok bool) {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return "", `write "127.0.0.1:` + s + `", or ":` + s + `" for all interfaces`, false
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", `write it as in "127.0.0.1:8080", or ":8080" for all interfaces; IPv6 as in "[::1]:8080"`, false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", "the port must be 0 to 65535", false
	}
	if host == "" || hostName(host) {
		return host, "", true
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return "", "the host must be an IP address or a name", false
	}
	return host, "", true
}

// loopback reports whether only this machine reaches the host.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// hostName reports whether s is a DNS name in lower case.
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// nameRule says what plainName accepts.
const nameRule = "a name of small letters, digits and dashes that begins with a letter, at most 63"

// plainName reports whether s is a name of a system, service, database or environment.
func plainName(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// suggestName makes a plain name of s, "" if there is none in it.
func suggestName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '_' || r == ' ' || r == '.':
			return '-'
		}
		return -1
	}, s)
	s = strings.TrimLeft(s, "-0123456789")
	s = strings.TrimRight(s[:min(len(s), 63)], "-")
	if !plainName(s) {
		return ""
	}
	return s
}

// variable reports whether s can be the name of an environment variable.
func variable(s string) bool {
	if s == "" || len(s) > 128 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// wordOf reports whether s holds only letters, digits and the signs in extra, and is
// 1 to 64 long.
func wordOf(s, extra string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return true
}

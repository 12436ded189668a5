package encode

import "strings"

// The codings of HTTP's registry that the door knows.
const (
	Brotli = "br" // of files that were compressed before only
	Zstd   = "zstd"
	Gzip   = "gzip"
)

// Choose returns which of the offered codings a client likes best, by the lines of
// its Accept-Encoding header (RFC 9110, 12.5.3): "" if it takes none of them, or
// prefers none. Of those that it likes the same the first offer is chosen. What is
// not well-formed counts as not accepted.
func Choose(lines []string, offers ...string) string {
	if len(lines) == 0 {
		return ""
	}
	best, bestQ := "", 0
	for _, offer := range offers {
		if q := quality(lines, offer); q > bestQ {
			best, bestQ = offer, q
		}
	}
	if best != "" && named(lines, "identity") && quality(lines, "identity") > bestQ {
		return ""
	}
	return best
}

// quality returns the q-value of a coding in thousandths.
func quality(lines []string, coding string) int {
	star := 0
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			switch name = strings.Trim(name, " \t"); {
			case same(name, coding):
				return Weight(params)
			case name == "*":
				star = Weight(params)
			}
		}
	}
	return star
}

func named(lines []string, coding string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.Trim(name, " \t"), coding) {
				return true
			}
		}
	}
	return false
}

// same compares codings. x-gzip is an old name of gzip (RFC 9110, 8.4.1.3).
func same(name, coding string) bool {
	return strings.EqualFold(name, coding) || coding == Gzip && strings.EqualFold(name, "x-gzip")
}

// Weight reads what follows an item of an Accept header, such as "q=0.5", in
// thousandths: 1000 if there is nothing, 0 if it is not a weight.
func Weight(params string) int {
	params = strings.Trim(params, " \t")
	if params == "" {
		return 1000
	}
	if len(params) < 3 || params[0]|0x20 != 'q' || params[1] != '=' {
		return 0
	}
	text := params[2:]
	whole, fraction, _ := strings.Cut(text, ".")
	if whole != "0" && whole != "1" || len(fraction) > 3 {
		return 0
	}
	n := 0
	for i := range 3 {
		n *= 10
		if i < len(fraction) {
			if fraction[i] < '0' || fraction[i] > '9' {
				return 0
			}
			n += int(fraction[i] - '0')
		}
	}
	if whole == "1" {
		if n > 0 {
			return 0
		}
		return 1000
	}
	return n
}

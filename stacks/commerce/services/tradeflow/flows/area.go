package flows

import (
	"strconv"
	"strings"
)

// World is the area code that stands for all partners.
const World = 0

// Area is a country or another area that trade statistics know, by its UN code
// (which is not always the ISO number: Switzerland is 757).
type Area struct {
	Code int    `json:"code"`
	ISO  string `json:"iso"`
	Name string `json:"name"`
}

// Areas finds areas by their code and by their ISO letters. It does not change
// after [NewAreas] and is safe for concurrent use.
type Areas struct {
	byCode map[int]Area
	byISO  map[string]int
}

// NewAreas returns the areas as a lookup. Where two share their letters the
// first one is found by them.
func NewAreas(list []Area) *Areas {
	as := &Areas{byCode: make(map[int]Area, len(list)), byISO: make(map[string]int, len(list))}
	for _, a := range list {
		as.byCode[a.Code] = a
		if iso := cleanISO(a.ISO); iso != "" {
			if _, taken := as.byISO[iso]; !taken {
				as.byISO[iso] = a.Code
			}
		}
	}
	return as
}

// ByISO returns the code of the area with those letters; padding and case do
// not matter ("XX " is "XX").
func (as *Areas) ByISO(iso string) (int, bool) {
	if as == nil {
		return 0, false
	}
	code, ok := as.byISO[iso]
	if !ok {
		code, ok = as.byISO[cleanISO(iso)]
	}
	return code, ok
}

// Find returns the code that a user means: a number, or ISO letters.
func (as *Areas) Find(s string) (int, bool) {
	s = strings.TrimSpace(s)
	if n, err := strconv.Atoi(s); err == nil {
		return n, n >= 0 && n <= maxArea
	}
	return as.ByISO(s)
}

// Area returns the area with that code, or one named after the code.
func (as *Areas) Area(code int) Area {
	if as != nil {
		if a, ok := as.byCode[code]; ok {
			return a
		}
	}
	return Area{Code: code, Name: "Area " + strconv.Itoa(code)}
}

func cleanISO(iso string) string { return strings.ToUpper(strings.TrimSpace(iso)) }

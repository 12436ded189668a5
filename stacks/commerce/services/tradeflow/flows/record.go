package flows

import (
	"cmp"
	"fmt"
	"strings"
)

// What a missing part of a record's key means. They are Comtrade's own words for
// "all of them", and HS for "a revision that was not told".
const (
	DefaultClass    = "HS"
	DefaultCustoms  = "C00"
	DefaultPartner2 = World
	DefaultMot      = 0
)

// Total is the commodity code of everything.
const Total = "TOTAL"

const maxArea = 9999

// Key identifies a flow: period:reporter:partner:partner2:flow:classification:cmd:customs:mot.
type Key struct {
	Reporter int
	Period   int // 2022, or 202203 for a month
	Flow     string
	Partner  int
	Cmd      string
	Class    string
	Partner2 int
	Customs  string
	Mot      int
}

func compareKeys(a, b *Key) int {
	return cmp.Or(
		cmp.Compare(a.Reporter, b.Reporter), cmp.Compare(a.Period, b.Period),
		cmp.Compare(a.Flow, b.Flow), cmp.Compare(a.Partner, b.Partner),
		cmp.Compare(a.Cmd, b.Cmd), cmp.Compare(a.Class, b.Class),
		cmp.Compare(a.Partner2, b.Partner2), cmp.Compare(a.Customs, b.Customs),
		cmp.Compare(a.Mot, b.Mot),
	)
}

// Chapter returns the two-digit HS chapter, or "" for TOTAL.
func (k Key) Chapter() string {
	if k.Cmd == Total {
		return ""
	}
	return k.Cmd[:2]
}

// Level returns how many digits the commodity has, 0 for TOTAL.
func (k Key) Level() int {
	if k.Cmd == Total {
		return 0
	}
	return len(k.Cmd)
}

// slice returns the place of the record in its group's order of aggregation:
// records of one slice are parts of the same whole, and the smallest slice is the
// one that counts. First the level of the commodity; then records that are split
// by second partner, customs procedure or mode of transport come after those that
// are not; then the newest revision of the classification first.
func (k Key) slice() int {
	detail := 0
	if k.Partner2 != DefaultPartner2 {
		detail |= 1
	}
	if k.Customs != DefaultCustoms {
		detail |= 2
	}
	if k.Mot != DefaultMot {
		detail |= 4
	}
	revision := 50
	if k.Class != DefaultClass {
		revision = 9 - int(k.Class[1]-'0')
	}
	return k.Level()*1000 + detail*100 + revision
}

// Measure is an amount that a record may leave out.
//
//nolint:recvcheck // Scan must change it, the others are of a value
type Measure struct {
	Amount Amount
	Known  bool
}

// Record is one flow as it was sent.
type Record struct {
	Key

	Value Amount // primary value, US dollars: CIF of imports, FOB of exports

	CIF, FOB    Measure
	Unit        Measure // Comtrade's code of the unit of Quantity, whole number
	Quantity    Measure
	NetWeight   Measure // kilograms
	GrossWeight Measure // kilograms
}

// merge returns what is stored after next arrived for the flow r: what next does not
// tell stays.
func (r *Record) merge(next Record) Record {
	next.CIF = next.CIF.or(r.CIF)
	next.FOB = next.FOB.or(r.FOB)
	next.Unit = next.Unit.or(r.Unit)
	next.Quantity = next.Quantity.or(r.Quantity)
	next.NetWeight = next.NetWeight.or(r.NetWeight)
	next.GrossWeight = next.GrossWeight.or(r.GrossWeight)
	return next
}

func (m Measure) or(other Measure) Measure {
	if m.Known {
		return m
	}
	return other
}

// Reason says in one word why a record was rejected.
type Reason string

// The reasons.
const (
	BadRecord         Reason = "bad_record"         // not the shape of a record at all
	BadPeriod         Reason = "bad_period"         // neither a year nor a month
	BadArea           Reason = "bad_area"           // an area code that is no number, or missing
	UnknownArea       Reason = "unknown_area"       // ISO letters that the model service does not know
	BadFlow           Reason = "bad_flow"           // not M, X, RM or RX
	BadClassification Reason = "bad_classification" // not goods, or not the Harmonized System
	BadCommodity      Reason = "bad_commodity"      // not TOTAL or 2, 4, 6, 8 or 10 digits
	BadCustoms        Reason = "bad_customs"
	BadTransport      Reason = "bad_transport"
	BadNumber         Reason = "bad_number" // missing value, negative, more than three decimals, too large
)

// RejectError is why a record was not taken. Its Detail may be shown to the sender.
type RejectError struct {
	Reason Reason
	Detail string
}

// Error makes it an error.
func (r *RejectError) Error() string { return string(r.Reason) + ": " + r.Detail }

func reject(reason Reason, format string, args ...any) *RejectError {
	return &RejectError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// raw is a record as text, the common form of the JSON answers and the CSV files.
// Empty text means that the field is missing.
type raw struct {
	typeCode, freq          string
	period, year, month     string
	reporter, reporterISO   string
	partner, partnerISO     string
	partner2, partner2ISO   string
	flow, flowDesc          string
	class, cmd              string
	customs, mot            string
	value, cif, fob         string
	unit, qty, netW, grossW string
}

var flowNames = map[string]string{
	"import": "M", "imports": "M", "export": "X", "exports": "X",
	"re-import": "RM", "re-imports": "RM", "re-export": "RX", "re-exports": "RX",
}

// record checks the text and fills in the defaults.
func (w *raw) record(areas *Areas) (Record, *RejectError) {
	var r Record
	if w.typeCode != "" && w.typeCode != "C" {
		return r, reject(BadClassification, "typeCode %s is not goods (C)", quote(w.typeCode))
	}
	var bad *RejectError
	if r.Period, bad = w.periodNumber(); bad != nil {
		return r, bad
	}
	if r.Reporter, bad = area("reporter", w.reporter, w.reporterISO, areas, -1); bad != nil {
		return r, bad
	}
	if r.Partner, bad = area("partner", w.partner, w.partnerISO, areas, -1); bad != nil {
		return r, bad
	}
	if r.Partner2, bad = area("partner2", w.partner2, w.partner2ISO, areas, DefaultPartner2); bad != nil {
		return r, bad
	}
	switch w.flow {
	case "M", "X", "RM", "RX":
		r.Flow = w.flow
	case "":
		flow, ok := flowNames[strings.ToLower(w.flowDesc)]
		if !ok {
			return r, reject(BadFlow, "flow %s is not Import, Export, Re-import or Re-export", quote(w.flowDesc))
		}
		r.Flow = flow
	default:
		return r, reject(BadFlow, "flow %s is not M, X, RM or RX", quote(w.flow))
	}
	if r.Class = cmp.Or(w.class, DefaultClass); r.Class != DefaultClass &&
		(len(r.Class) != 2 || r.Class[0] != 'H' || r.Class[1] < '0' || r.Class[1] > '9') {
		return r, reject(BadClassification, "classification %s is not HS or H0 to H9", quote(r.Class))
	}
	if r.Cmd = w.cmd; !validCmd(r.Cmd) {
		return r, reject(BadCommodity, "commodity %s is not TOTAL or 2, 4, 6, 8 or 10 digits", quote(r.Cmd))
	}
	if r.Customs = cmp.Or(w.customs, DefaultCustoms); !validCustoms(r.Customs) {
		return r, reject(BadCustoms, "customs code %s is not a letter and digits", quote(r.Customs))
	}
	if r.Mot, bad = transport(w.mot); bad != nil {
		return r, bad
	}
	return r, w.readAmounts(&r)
}

func (w *raw) readAmounts(r *Record) *RejectError {
	if w.value == "" {
		return reject(BadNumber, "the primary value is missing")
	}
	v, err := ParseAmount(w.value)
	if err != nil {
		return reject(BadNumber, "primary value %s: %s", quote(w.value), err)
	}
	r.Value = v
	for _, m := range [...]struct {
		name, text string
		to         *Measure
	}{
		{"CIF value", w.cif, &r.CIF},
		{"FOB value", w.fob, &r.FOB},
		{"quantity", w.qty, &r.Quantity},
		{"net weight", w.netW, &r.NetWeight},
		{"gross weight", w.grossW, &r.GrossWeight},
	} {
		if m.text == "" {
			continue
		}
		v, err := ParseAmount(m.text)
		if err != nil {
			return reject(BadNumber, "%s %s: %s", m.name, quote(m.text), err)
		}
		*m.to = Measure{v, true}
	}
	// -1 is Comtrade's "no unit".
	if w.unit != "" && w.unit != "-1" {
		n, ok := number(w.unit, 9999)
		if !ok {
			return reject(BadNumber, "quantity unit %s is not a unit's code", quote(w.unit))
		}
		r.Unit = Measure{Amount(n), true}
	}
	return nil
}

// periodNumber reads "2022" or "202203"; without a period the year counts, with
// the month unless it is 52, Comtrade's word for the whole year.
func (w *raw) periodNumber() (int, *RejectError) {
	text := w.period
	if text == "" {
		text = w.year
		if w.freq == "M" && len(w.month) > 0 && w.month != "52" {
			text += strings.Repeat("0", max(0, 2-len(w.month))) + w.month
		}
	}
	n, ok := number(text, 219912)
	year, month := n, 1
	if len(text) == 6 {
		year, month = n/100, n%100
	}
	if !ok || len(text) != 4 && len(text) != 6 || year < 1900 || year > 2199 || month < 1 || month > 12 {
		return 0, reject(BadPeriod, "period %s is neither a year nor a month such as 202203", quote(text))
	}
	if w.freq != "" && w.freq != "A" && w.freq != "M" {
		return 0, reject(BadPeriod, "frequency %s is not A or M", quote(w.freq))
	}
	return n, nil
}

// area reads the code, or else finds the ISO letters. missing is the default, or
// -1 where there is none.
func area(field, code, iso string, areas *Areas, missing int) (int, *RejectError) {
	if code != "" {
		n, ok := number(code, maxArea)
		if !ok {
			return 0, reject(BadArea, "%s code %s is not a UN code", field, quote(code))
		}
		return n, nil
	}
	if iso != "" {
		n, ok := areas.ByISO(iso)
		if !ok {
			return 0, reject(UnknownArea, "%s %s is not an area that is known", field, quote(iso))
		}
		return n, nil
	}
	if missing < 0 {
		return 0, reject(BadArea, "the %s is missing", field)
	}
	return missing, nil
}

func transport(text string) (int, *RejectError) {
	if text == "" {
		return DefaultMot, nil
	}
	n, ok := number(text, 9999)
	if !ok {
		return 0, reject(BadTransport, "mode of transport %s is not a number", quote(text))
	}
	return n, nil
}

// number reads 1 to 6 digits up to most.
func number(s string, most int) (int, bool) {
	if s == "" || len(s) > 6 {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, n <= most
}

func validCmd(s string) bool {
	if s == Total {
		return true
	}
	return len(s) >= 2 && len(s) <= 10 && len(s)%2 == 0 && digits(s)
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func validCustoms(s string) bool {
	return len(s) >= 2 && len(s) <= 8 && s[0] >= 'A' && s[0] <= 'Z' && digits(s[1:])
}

// quote shows a sender's text, bounded.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		return fmt.Sprintf("%.40q...", s)
	}
	return fmt.Sprintf("%q", s)
}

package flows

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"slices"
	"strings"
)

// Format is the shape of an upload.
type Format string

// The formats. Detect finds out by the first byte.
const (
	Detect Format = ""
	JSON   Format = "comtrade-json" // an answer of the API: {"data": [...]}
	CSV    Format = "comtrade-csv"  // a header line, then a row per record
)

// FormatOf returns the format that a Content-Type names, or Detect.
func FormatOf(contentType string) Format {
	kind, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return Detect
	case kind == "text/csv", kind == "application/csv":
		return CSV
	case kind == "application/json", strings.HasSuffix(kind, "+json"):
		return JSON
	default:
		return Detect
	}
}

const (
	endsEarly = "the upload ends in the middle"
	damaged   = "the gzip data is damaged"
)

const (
	maxRecord   = 1 << 20 // bytes of one record, and of anything between two records
	maxInflated = 8 << 30 // bytes of a whole upload after decompression
)

// FormatError is an upload that is not what it should be from some place on.
// Its text may be shown to the sender.
type FormatError struct {
	Problem string
	Cause   error
}

// Error makes a FormatError an error.
func (e *FormatError) Error() string { return e.Problem }

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Cause }

// ReadError is an upload that broke off: the rest could not be read.
type ReadError struct{ Cause error }

// Error makes a ReadError an error.
func (e *ReadError) Error() string { return "read upload: " + e.Cause.Error() }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Cause }

// guard bounds what may be read between two records, so that one endless record
// cannot fill the memory, and remembers why reading failed.
type guard struct {
	r      io.Reader
	packed bool  // r decompresses
	left   int   // bytes until the next record must be complete
	total  int64 // bytes of the whole upload that may still come
	err    error
}

var (
	errRecordSize = fmt.Errorf("a record is larger than %d bytes", maxRecord)
	errUploadSize = fmt.Errorf("the upload is larger than %d bytes", int64(maxInflated))
)

func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	if g.left <= 0 {
		g.err = &FormatError{Problem: errRecordSize.Error()}
		return 0, g.err
	}
	if g.total <= 0 {
		g.err = &FormatError{Problem: errUploadSize.Error()}
		return 0, g.err
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	g.total -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		var read *ReadError
		var format *FormatError
		switch {
		case errors.As(err, &read), errors.As(err, &format):
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = &FormatError{Problem: endsEarly, Cause: err}
		case g.packed:
			err = &FormatError{Problem: damaged, Cause: err}
		default:
			err = &ReadError{Cause: err}
		}
		g.err = err
	}
	return n, err
}

func (g *guard) next() { g.left = maxRecord }

// source yields the records of an upload one after the other.
type source interface {
	// read fills w with the next record and returns its number: the record's, from
	// 1, or the line's. A *RejectError leaves the source usable; io.EOF is the end.
	read(w *raw) (int, error)
}

// openSource finds out what r holds, through gzip where there is any.
func openSource(r io.Reader, f Format) (source, Format, error) {
	g := &guard{r: r, left: maxRecord, total: maxInflated}
	b := bufio.NewReaderSize(g, 16<<10)
	if magic, err := b.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			if g.err != nil {
				return nil, f, g.err
			}
			return nil, f, &FormatError{Problem: damaged, Cause: err}
		}
		// Between the two, only the inflated bytes are counted per record.
		g.left, g.total = math.MaxInt, maxInflated
		g = &guard{r: z, packed: true, left: maxRecord, total: maxInflated}
		b = bufio.NewReaderSize(g, 16<<10)
	}
	if bom, err := b.Peek(3); err == nil && bytes.Equal(bom, []byte("\xef\xbb\xbf")) {
		_, _ = b.Discard(3)
	}
	if f == Detect {
		f = CSV
		for {
			c, err := b.ReadByte()
			if errors.Is(err, io.EOF) {
				return nil, f, &FormatError{Problem: "the upload is empty"}
			}
			if err != nil {
				return nil, f, readError(err)
			}
			if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
				if c == '{' {
					f = JSON
				}
				_ = b.UnreadByte()
				break
			}
		}
	}
	g.next()
	if f == JSON {
		s, err := openJSON(b, g)
		return s, f, err
	}
	s, err := openCSV(b, g)
	return s, f, err
}

// readError keeps the errors of guard, and says of others that the data broke off.
func readError(err error) error {
	var format *FormatError
	var read *ReadError
	switch {
	case errors.As(err, &format):
		return format
	case errors.As(err, &read):
		return read
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		// Not io.EOF itself, which means that all is well.
		return &FormatError{Problem: endsEarly, Cause: io.ErrUnexpectedEOF}
	default:
		return &FormatError{Problem: "the JSON is broken: " + err.Error(), Cause: err}
	}
}

// text is a JSON string, number, boolean or null as text, without padding.
type text string

// UnmarshalJSON takes any scalar.
func (t *text) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case '{', '[':
		return errors.New("a list or an object where a value should be")
	case 'n':
		*t = ""
	case '"':
		if in := b[1 : len(b)-1]; bytes.IndexByte(in, '\\') < 0 {
			*t = text(bytes.TrimSpace(in))
			return nil
		}
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = text(strings.TrimSpace(s))
	default:
		*t = text(b)
	}
	return nil
}

// comtrade is the part of a record of the API that is kept.
type comtrade struct {
	TypeCode           text `json:"typeCode"`
	FreqCode           text `json:"freqCode"`
	RefYear            text `json:"refYear"`
	RefMonth           text `json:"refMonth"`
	Period             text `json:"period"`
	ReporterCode       text `json:"reporterCode"`
	ReporterISO        text `json:"reporterISO"`
	PartnerCode        text `json:"partnerCode"`
	PartnerISO         text `json:"partnerISO"`
	Partner2Code       text `json:"partner2Code"`
	Partner2ISO        text `json:"partner2ISO"`
	FlowCode           text `json:"flowCode"`
	FlowDesc           text `json:"flowDesc"`
	ClassificationCode text `json:"classificationCode"`
	CmdCode            text `json:"cmdCode"`
	CustomsCode        text `json:"customsCode"`
	MotCode            text `json:"motCode"`
	QtyUnitCode        text `json:"qtyUnitCode"`
	Qty                text `json:"qty"`
	NetWgt             text `json:"netWgt"`
	GrossWgt           text `json:"grossWgt"`
	CIFValue           text `json:"cifvalue"`
	FOBValue           text `json:"fobvalue"`
	PrimaryValue       text `json:"primaryValue"`
}

func (c *comtrade) raw() raw {
	return raw{
		typeCode: string(c.TypeCode), freq: string(c.FreqCode),
		period: string(c.Period), year: string(c.RefYear), month: string(c.RefMonth),
		reporter: string(c.ReporterCode), reporterISO: string(c.ReporterISO),
		partner: string(c.PartnerCode), partnerISO: string(c.PartnerISO),
		partner2: string(c.Partner2Code), partner2ISO: string(c.Partner2ISO),
		flow: string(c.FlowCode), flowDesc: string(c.FlowDesc),
		class: string(c.ClassificationCode), cmd: string(c.CmdCode),
		customs: string(c.CustomsCode), mot: string(c.MotCode),
		value: string(c.PrimaryValue), cif: string(c.CIFValue), fob: string(c.FOBValue),
		unit: string(c.QtyUnitCode), qty: string(c.Qty),
		netW: string(c.NetWgt), grossW: string(c.GrossWgt),
	}
}

// jsonSource reads the envelope of the API record by record.
type jsonSource struct {
	dec    *json.Decoder
	g      *guard
	n      int
	inData bool
	seen   bool
}

func openJSON(r io.Reader, g *guard) (*jsonSource, error) {
	s := &jsonSource{dec: json.NewDecoder(r), g: g}
	const problem = "the upload is not a JSON object"
	err := s.delim('{', problem)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		err = &FormatError{Problem: problem, Cause: syntax}
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *jsonSource) delim(want json.Delim, problem string) error {
	t, err := s.dec.Token()
	if err != nil {
		return readError(err)
	}
	if d, ok := t.(json.Delim); !ok || d != want {
		return &FormatError{Problem: problem}
	}
	return nil
}

func (s *jsonSource) read(w *raw) (int, error) {
	for !s.inData {
		s.g.next()
		if !s.dec.More() {
			return s.n, s.end()
		}
		if err := s.field(); err != nil {
			return s.n, err
		}
	}
	s.g.next()
	if !s.dec.More() {
		s.inData = false
		if err := s.delim(']', "the list of records does not end"); err != nil {
			return s.n, err
		}
		return s.read(w)
	}
	s.n++
	var c comtrade
	if err := s.dec.Decode(&c); err != nil {
		var syntax *json.SyntaxError
		if s.g.err != nil || errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return s.n, readError(err)
		}
		// The decoder has passed the record: it is well-formed, but no record.
		return s.n, reject(BadRecord, "%s", shapeProblem(err))
	}
	*w = c.raw()
	return s.n, nil
}

func shapeProblem(err error) string {
	if shape, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return "a " + shape.Value + " where an object should be"
	}
	return err.Error()
}

// field reads one field of the envelope, or enters the list of records.
func (s *jsonSource) field() error {
	t, err := s.dec.Token()
	if err != nil {
		return readError(err)
	}
	switch t {
	case "data":
		if s.seen {
			return &FormatError{Problem: "there are two lists of records"}
		}
		s.seen, s.inData = true, true
		return s.delim('[', "data is not a list of records")
	case "error":
		var message text
		if err := s.dec.Decode(&message); err != nil {
			return readError(err)
		}
		if message != "" {
			return &FormatError{Problem: "the answer reports an error itself: " + quote(string(message))}
		}
		return nil
	default:
		var skip json.RawMessage
		if err := s.dec.Decode(&skip); err != nil {
			return readError(err)
		}
		return nil
	}
}

func (s *jsonSource) end() error {
	if err := s.delim('}', "the object does not end"); err != nil {
		return err
	}
	if !s.seen {
		return &FormatError{Problem: "the upload has no list of records called data"}
	}
	switch _, err := s.dec.Token(); {
	case s.g.err != nil:
		return s.g.err
	case !errors.Is(err, io.EOF):
		return &FormatError{Problem: "something follows after the end of the answer"}
	}
	return io.EOF
}

// csvSource reads rows under a header line. Columns may stand in any order; their
// names are the API's or the same in snake case.
type csvSource struct {
	r     *csv.Reader
	g     *guard
	width int
	put   []func(w *raw, s string) // by column, nil where it is not needed
}

var columns = map[string]func(w *raw, s string){
	"typecode":           func(w *raw, s string) { w.typeCode = s },
	"freqcode":           func(w *raw, s string) { w.freq = s },
	"period":             func(w *raw, s string) { w.period = s },
	"refyear":            func(w *raw, s string) { w.year = s },
	"refmonth":           func(w *raw, s string) { w.month = s },
	"reportercode":       func(w *raw, s string) { w.reporter = s },
	"reporteriso":        func(w *raw, s string) { w.reporterISO = s },
	"partnercode":        func(w *raw, s string) { w.partner = s },
	"partneriso":         func(w *raw, s string) { w.partnerISO = s },
	"partner2code":       func(w *raw, s string) { w.partner2 = s },
	"partner2iso":        func(w *raw, s string) { w.partner2ISO = s },
	"flowcode":           func(w *raw, s string) { w.flow = s },
	"flowdesc":           func(w *raw, s string) { w.flowDesc = s },
	"classificationcode": func(w *raw, s string) { w.class = s },
	"cmdcode":            func(w *raw, s string) { w.cmd = s },
	"customscode":        func(w *raw, s string) { w.customs = s },
	"motcode":            func(w *raw, s string) { w.mot = s },
	"qtyunitcode":        func(w *raw, s string) { w.unit = s },
	"qty":                func(w *raw, s string) { w.qty = s },
	"netwgt":             func(w *raw, s string) { w.netW = s },
	"grosswgt":           func(w *raw, s string) { w.grossW = s },
	"cifvalue":           func(w *raw, s string) { w.cif = s },
	"fobvalue":           func(w *raw, s string) { w.fob = s },
	"primaryvalue":       func(w *raw, s string) { w.value = s },
}

func openCSV(r io.Reader, g *guard) (*csvSource, error) {
	s := &csvSource{r: csv.NewReader(r), g: g}
	s.r.ReuseRecord = true
	s.r.FieldsPerRecord = -1
	header, err := s.r.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &FormatError{Problem: "the upload is empty"}
		}
		return nil, readError(err)
	}
	s.width = len(header)
	s.put = make([]func(*raw, string), len(header))
	found := make(map[string]bool, len(header))
	for i, name := range header {
		name = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), "_", ""))
		if set, ok := columns[name]; ok {
			if found[name] {
				return nil, &FormatError{Problem: "the header line names " + quote(name) + " twice"}
			}
			found[name] = true
			s.put[i] = set
		}
	}
	for _, need := range [...][]string{
		{"period", "refyear"},
		{"reportercode", "reporteriso"},
		{"partnercode", "partneriso"},
		{"flowcode", "flowdesc"},
		{"cmdcode"},
		{"primaryvalue"},
	} {
		if !slices.ContainsFunc(need, func(name string) bool { return found[name] }) {
			return nil, &FormatError{Problem: "the header line has no column " + strings.Join(need, " or ")}
		}
	}
	return s, nil
}

func (s *csvSource) read(w *raw) (int, error) {
	s.g.next()
	fields, err := s.r.Read()
	if err != nil {
		if errors.Is(err, io.EOF) && s.g.err == nil {
			return 0, io.EOF
		}
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			err = &FormatError{Problem: fmt.Sprintf("line %d: %s", parse.StartLine, parse.Err), Cause: err}
		}
		return 0, readError(err)
	}
	line, _ := s.r.FieldPos(0)
	if len(fields) != s.width {
		return line, reject(BadRecord, "%d fields where the header line has %d", len(fields), s.width)
	}
	*w = raw{}
	for i, set := range s.put {
		if set != nil {
			set(w, trim(fields[i]))
		}
	}
	return line, nil
}

// trim is strings.TrimSpace with the usual case, no padding, made cheap.
func trim(s string) string {
	if s == "" || s[0] > ' ' && s[len(s)-1] > ' ' {
		return s
	}
	return strings.TrimSpace(s)
}

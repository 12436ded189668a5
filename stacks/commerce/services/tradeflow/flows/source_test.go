package flows

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const header = "reporter_iso,flow_desc,partner_iso,cmd_code,primary_value,ref_year\n"

// readAll reads an upload to its end and returns the records, the rejections as
// "at reason", and the error that ended it.
func readAll(r io.Reader, f Format) (records []Record, rejections []string, err error) {
	src, _, err := openSource(r, f)
	if err != nil {
		return nil, nil, err
	}
	for {
		var w raw
		at, err := src.read(&w)
		var bad *RejectError
		switch {
		case errors.Is(err, io.EOF):
			return records, rejections, nil
		case errors.As(err, &bad):
		case err != nil:
			return records, rejections, err
		default:
			var r Record
			if r, bad = w.record(testAreas()); bad == nil {
				records = append(records, r)
				continue
			}
		}
		rejections = append(rejections, fmt.Sprintf("%d %s", at, bad.Reason))
	}
}

func TestRecordsOfAnUpload(t *testing.T) {
	annual := Key{Period: 2022, Reporter: 40, Partner: 757, Flow: "M", Cmd: "4401", Class: "HS", Customs: "C00"}
	tests := []struct {
		name string
		in   string
		want Record
	}{
		{"csv with defaults", header + "AUT,Import,CHE,4401,7.087,2022\n", Record{Key: annual, Value: 7087}},
		{"csv with padded letters in lower case", header + "aut ,import,\"che  \",4401,7.087,2022\n", Record{Key: annual, Value: 7087}},
		{"csv with a byte order mark and CRLF", "\ufeff" + strings.ReplaceAll(header, "\n", "\r\n") + "AUT,Import,CHE,4401,7.087,2022\r\n", Record{Key: annual, Value: 7087}},
		{
			"csv in another order with names of the API", "cmdCode,primaryValue,period,flowCode,reporterCode,partnerCode,classificationCode,customsCode,motCode,partner2Code,cifvalue\n" +
				"440711,1,202203,RX,757,0,H6,C05,2100,56,0.5\n",
			Record{
				Key:   Key{Period: 202203, Reporter: 757, Partner: 0, Partner2: 56, Flow: "RX", Cmd: "440711", Class: "H6", Customs: "C05", Mot: 2100},
				Value: 1000, CIF: Measure{500, true},
			},
		},
		{
			"json", `{"elapsedTime":"0.1 secs","count":1,"data":[{"typeCode":"C","freqCode":"A","refYear":2022,"refMonth":52,"period":"2022",
				"reporterCode":40,"partnerCode":757,"partner2Code":0,"flowCode":"M","classificationCode":"H6","cmdCode":"TOTAL","customsCode":"C00",
				"mosCode":"0 ","motCode":0,"qtyUnitCode":-1,"qty":null,"netWgt":12.5,"cifvalue":3.0,"fobvalue":null,"primaryValue":3.0}],"error":""}`,
			Record{
				Key:   Key{Period: 2022, Reporter: 40, Partner: 757, Flow: "M", Cmd: "TOTAL", Class: "H6", Customs: "C00"},
				Value: 3000, CIF: Measure{3000, true}, NetWeight: Measure{12500, true},
			},
		},
		{
			"json with letters in place of codes, and a year only", ` {"data":[{"refYear":2022,"reporterISO":"AUT","partnerISO":"_X ","flowDesc":"Import","cmdCode":"44","primaryValue":1,"qtyUnitCode":8,"qty":2}]}`,
			Record{
				Key:   Key{Period: 2022, Reporter: 40, Partner: 899, Flow: "M", Cmd: "44", Class: "HS", Customs: "C00"},
				Value: 1000, Unit: Measure{8, true}, Quantity: Measure{2000, true},
			},
		},
		{
			"json of a month without a period", `{"data":[{"freqCode":"M","refYear":2022,"refMonth":3,"reporterCode":40,"partnerCode":757,"flowCode":"X","cmdCode":"44","primaryValue":1}]}`,
			Record{Key: Key{Period: 202203, Reporter: 40, Partner: 757, Flow: "X", Cmd: "44", Class: "HS", Customs: "C00"}, Value: 1000},
		},
		{
			"json with escapes and the error first", `{"error":null,"data":[{"period":"\u0032022","reporterCode":"40","partnerCode":757,"flowCode":"M","cmdCode":"4401","primaryValue":7.087}]}`,
			Record{Key: annual, Value: 7087},
		},
	}
	for _, tt := range tests {
		for _, compressed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, gzip %t", tt.name, compressed), func(t *testing.T) {
				var in io.Reader = strings.NewReader(tt.in)
				if compressed {
					in = bytes.NewReader(zip([]byte(tt.in)))
				}
				got, rejections, err := readAll(iotest.OneByteReader(in), Detect)
				if err != nil || len(rejections) > 0 || len(got) != 1 {
					t.Fatalf("got %d records, %v, %v", len(got), rejections, err)
				}
				if got[0] != tt.want {
					t.Errorf("got  %+v\nwant %+v", got[0], tt.want)
				}
			})
		}
	}
}

// wrongSum changes the checksum at the end of gzip data.
func wrongSum(b []byte) []byte {
	b[len(b)-8] ^= 0xff
	return b
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

func TestRejectedRecords(t *testing.T) {
	row := func(change string) string {
		fields := map[string]string{"period": `"2022"`, "reporterCode": "40", "partnerCode": "757", "flowCode": `"M"`, "cmdCode": `"4401"`, "primaryValue": "1"}
		name, value, _ := strings.Cut(change, "=")
		fields[name] = value
		var b strings.Builder
		for k, v := range fields {
			if v != "" {
				fmt.Fprintf(&b, `,%q:%s`, k, v)
			}
		}
		return `{"data":[{` + b.String()[1:] + `}]}`
	}
	tests := []struct {
		name, in string
		want     Reason
	}{
		{"not an object", `{"data":[7]}`, BadRecord},
		{"a list as a value", row(`cmdCode=["44"]`), BadRecord},
		{"services", row(`typeCode="S"`), BadClassification},
		{"another classification", row(`classificationCode="S4"`), BadClassification},
		{"no year", row(`period=`), BadPeriod},
		{"month 13", row(`period="202213"`), BadPeriod},
		{"a week", row(`freqCode="W"`), BadPeriod},
		{"year of two digits", row(`period="22"`), BadPeriod},
		{"no reporter", row(`reporterCode=`), BadArea},
		{"reporter in letters", row(`reporterCode="AUT"`), BadArea},
		{"negative partner", row(`partnerCode=-1`), BadArea},
		{"unknown letters", header + "AUT,Import,ZZZ,44,1,2022\n", UnknownArea},
		{"no partner in the letters", header + "AUT,Import,,44,1,2022\n", BadArea},
		{"unknown flow", row(`flowCode="FM"`), BadFlow},
		{"unknown name of a flow", header + "AUT,Transit,CHE,44,1,2022\n", BadFlow},
		{"odd commodity", row(`cmdCode="440"`), BadCommodity},
		{"lost zero", row(`cmdCode=101`), BadCommodity},
		{"group of commodities", row(`cmdCode="AG2"`), BadCommodity},
		{"no commodity", row(`cmdCode=`), BadCommodity},
		{"bad customs code", row(`customsCode="x"`), BadCustoms},
		{"bad transport", row(`motCode="sea"`), BadTransport},
		{"no value", row(`primaryValue=null`), BadNumber},
		{"negative value", row(`primaryValue=-5`), BadNumber},
		{"four decimals", row(`primaryValue=0.1234`), BadNumber},
		{"four decimals of a weight", row(`netWgt=0.1234`), BadNumber},
		{"text as value", row(`primaryValue="much"`), BadNumber},
		{"fields missing", header + "AUT,Import,CHE,44,1\n", BadRecord},
		{"a field too many", header + "AUT,Import,CHE,44,1,2022,x\n", BadRecord},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			records, rejections, err := readAll(strings.NewReader(tt.in), Detect)
			at := "1 "
			if tt.in[0] != '{' {
				at = "2 "
			}
			if err != nil || len(records) > 0 || len(rejections) != 1 || rejections[0] != at+string(tt.want) {
				t.Errorf("got %d records, %q, %v, want %q", len(records), rejections, err, at+string(tt.want))
			}
		})
	}
}

func TestBrokenUploads(t *testing.T) {
	record := `{"period":"2022","reporterCode":40,"partnerCode":757,"flowCode":"M","cmdCode":"4401","primaryValue":1}`
	good := `{"data":[` + record + `,` + record + `]}`
	tests := []struct {
		name    string
		in      []byte
		format  Format
		records int
		want    string
	}{
		{"nothing", nil, Detect, 0, "the upload is empty"},
		{"nothing as json", nil, JSON, 0, endsEarly},
		{"nothing as csv", nil, CSV, 0, "the upload is empty"},
		{"spaces", []byte(" \n\t"), Detect, 0, "the upload is empty"},
		{"no list", []byte(`{"count":0}`), Detect, 0, "the upload has no list of records called data"},
		{"a list at the top", []byte(`[` + record + `]`), JSON, 0, "the upload is not a JSON object"},
		{"no json at all", []byte("not json"), JSON, 0, "the upload is not a JSON object"},
		{"an object as list", []byte(`{"data":{}}`), Detect, 0, "data is not a list of records"},
		{"two lists", []byte(`{"data":[` + record + `],"data":[]}`), Detect, 1, "there are two lists of records"},
		{"the API's own error", []byte(`{"data":[],"error":"over quota"}`), Detect, 0, `the answer reports an error itself: "over quota"`},
		{"cut in a record", []byte(good[:len(good)-30]), Detect, 1, endsEarly},
		{"cut after a record", []byte(good[:len(good)-2]), Detect, 2, endsEarly},
		{"cut after the list", []byte(good[:len(good)-1]), Detect, 2, endsEarly},
		{"something after the end", []byte(good + "x"), Detect, 2, "something follows after the end of the answer"},
		{"bad json", []byte(`{"data":[` + record + `,{"period":}]}`), Detect, 1, "the JSON is broken: invalid character '}' looking for beginning of value"},
		{"cut gzip", zip([]byte(good))[:60], Detect, 0, endsEarly},
		{"damaged gzip", wrongSum(zip([]byte(good))), Detect, 2, damaged},
		{"header of gzip only", []byte{0x1f, 0x8b, 0x99}, Detect, 0, damaged},
		{"wrong columns", []byte("a,b\n1,2\n"), Detect, 0, "the header line has no column period or refyear"},
		{"a column twice", []byte("cmd_code,cmdCode\n"), Detect, 0, `the header line names "cmdcode" twice`},
		{"a quote that does not end", []byte(header + "AUT,Import,CHE,44,1,2022\nAUT,\"Import,CHE,44,1,2022\n"), Detect, 1, `line 3: extraneous or missing " in quoted-field`},
		{"an endless record", []byte(`{"data":[{"x":"` + strings.Repeat("x", 2*maxRecord) + `"}]}`), Detect, 0, errRecordSize.Error()},
		{"an endless line", []byte(header + `"` + strings.Repeat("x", 2*maxRecord)), Detect, 0, errRecordSize.Error()},
		{"an endless envelope", []byte(`{"x":[` + strings.Repeat(" ", 2*maxRecord) + `]}`), Detect, 0, errRecordSize.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			records, rejections, err := readAll(bytes.NewReader(tt.in), tt.format)
			var format *FormatError
			if !errors.As(err, &format) || format.Problem != tt.want || len(records) != tt.records || len(rejections) > 0 {
				t.Errorf("got %d records, %v, %q, want %d and %q", len(records), rejections, err, tt.records, tt.want)
			}
		})
	}
}

func TestUploadThatBreaksOff(t *testing.T) {
	gone := errors.New("connection reset")
	text := header + "AUT,Import,CHE,44,1,2022\n"
	for name, in := range map[string]io.Reader{
		"plain": io.MultiReader(strings.NewReader(text), iotest.ErrReader(gone)),
		"gzip":  io.MultiReader(bytes.NewReader(zip([]byte(text))[:40]), iotest.ErrReader(gone)),
		"begin": iotest.ErrReader(gone),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := readAll(in, Detect)
			var read *ReadError
			if !errors.As(err, &read) || !errors.Is(err, gone) {
				t.Errorf("got %v, want a ReadError", err)
			}
		})
	}
}

func TestFormatOf(t *testing.T) {
	for in, want := range map[string]Format{
		"": Detect, "text/csv; charset=utf-8": CSV, "application/json": JSON, "application/problem+json": JSON,
		"application/octet-stream": Detect, "application/x-www-form-urlencoded": Detect, ";": Detect,
	} {
		if got := FormatOf(in); got != want {
			t.Errorf("FormatOf(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzSource reads anything: it must end, and what it gives must be storable.
func FuzzSource(f *testing.F) {
	f.Add([]byte(header+"AUT,Import,CHE,4401,7.087,2022\n"), "")
	f.Add([]byte(`{"count":1,"data":[{"period":"2022","reporterCode":40,"partnerCode":757,"flowCode":"M","cmdCode":"44","primaryValue":1.5}],"error":""}`), string(JSON))
	f.Add(zip([]byte(header)), string(CSV))
	f.Add([]byte(`{"data":[{"cmdCode":{}},[],null,1]}`), "")
	f.Fuzz(func(t *testing.T, in []byte, format string) {
		records, _, err := readAll(bytes.NewReader(in), Format(format))
		var broken *FormatError
		var read *ReadError
		if err != nil && !errors.As(err, &broken) && !errors.As(err, &read) {
			t.Errorf("the error is neither of the two kinds: %v", err)
		}
		for _, r := range records {
			if r.Value < 0 || r.Value > MaxAmount || r.Cmd == "" || r.Chapter() == "" && r.Cmd != Total || r.slice() < 0 {
				t.Errorf("got %+v", r)
			}
		}
	})
}

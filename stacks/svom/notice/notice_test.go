package notice

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const whole = `<?xml version="1.0" encoding="UTF-8"?>
<voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0" role="observation" version="2.0" ivorn="ivo://org.svom/fsc#sb26010101_mxt-initial_qf1">
  <Who><Date>2026-01-01T19:25:50+00:00</Date></Who>
  <What>
    <Param name="Packet_Type" value="209" ucd="meta.id"/>
    <Param name="Pkt_Ser_Num" value="1"/>
    <Param name="Instrument" value="MXT"/>
    <Group name="Svom_Identifiers">
      <Param name="Notice_Level" value="N2m"/>
      <Param name="Burst_Id" value="sb26010101"/>
    </Group>
    <Group name="Detection_Info"><Param name="SNR" value="42.00" unit="sigma"/></Group>
  </What>
  <WhereWhen><ObsDataLocation><ObservationLocation><AstroCoords coord_system_id="UTC-ICRS-GEO">
    <Time unit="s"><TimeInstant><ISOTime>2026-01-01T19:24:23.604000</ISOTime></TimeInstant></Time>
    <Position2D unit="deg"><Value2><C1>86.9755</C1><C2>-0.4379</C2></Value2><Error2Radius>0.1057</Error2Radius></Position2D>
  </AstroCoords></ObservationLocation></ObsDataLocation></WhereWhen>
  <Citations><EventIVORN cite="followup">ivo://org.svom/fsc#sb26010101_eclairs-wakeup</EventIVORN></Citations>
</voe:VOEvent>`

func TestParse(t *testing.T) {
	observed := time.Date(2026, 1, 1, 19, 24, 23, 604_000_000, time.UTC)
	want := Notice{
		ID: "ivo://org.svom/fsc#sb26010101_mxt-initial_qf1", Role: "observation", Date: time.Date(2026, 1, 1, 19, 25, 50, 0, time.UTC),
		Type: MXTInitial, Serial: 1, Instrument: "MXT", Level: "N2m", Burst: "sb26010101", Observed: &observed,
		Position:   &Position{RA: 86.9755, Dec: -0.4379, Error: 0.1057},
		Parameters: []Parameter{{Group: "Detection_Info", Name: "SNR", Value: "42.00", Unit: "sigma"}},
		Cites:      []string{"ivo://org.svom/fsc#sb26010101_eclairs-wakeup"},
	}
	got, err := Parse(strings.NewReader(whole))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	var again Notice
	text, err := json.Marshal(got)
	if err == nil {
		err = json.Unmarshal(text, &again)
	}
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("through JSON: got %+v, %v", again, err)
	}
}

// TestErrorRadiusOfMinusOne: a real notice of GRM says so.
func TestErrorRadiusOfMinusOne(t *testing.T) {
	n, err := Parse(strings.NewReader(strings.Replace(whole, "0.1057", "-1.0000", 1)))
	if err != nil || n.Position == nil || n.Position.Error != 0 {
		t.Errorf("got %+v, %v", n, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ was, is, want string }{
		"no XML":                 {whole, "{}", "it is no VOEvent"},
		"another document":       {whole, "<html/>", "it is no VOEvent"},
		"no name":                {`ivorn="ivo://`, `ivorn="http://`, "its ivorn is missing or wrong"},
		"unknown role":           {`"observation"`, `"rumour"`, "its role is unknown"},
		"no date":                {"2026-01-01T19:25:50+00:00", "yesterday", "its date: it is no time of ISO 8601"},
		"no burst":               {"Burst_Id", "Burst", "its Burst_Id is missing or wrong"},
		"wrong burst":            {`"sb26010101"`, `"sb26"`, "its Burst_Id is missing or wrong"},
		"no type":                {`"209"`, `"x"`, "its Packet_Type is missing or wrong"},
		"type out of range":      {`"209"`, `"1000"`, "its Packet_Type is missing or wrong"},
		"no serial":              {"Pkt_Ser_Num", "Serial", "its Pkt_Ser_Num is missing or wrong"},
		"no instrument":          {`value="MXT"`, `value=""`, "its Instrument is missing or too long"},
		"radians":                {`Position2D unit="deg"`, `Position2D unit="rad"`, "its position is not in degrees"},
		"right ascension of 360": {"86.9755", "360", "its right ascension is missing or wrong"},
		"no number":              {"-0.4379", "NaN", "its declination is missing or wrong"},
		"a negative radius":      {"0.1057", "-0.5", "its error radius is missing or wrong"},
		"other coordinates":      {"UTC-ICRS-GEO", "GALACTIC", "its system of coordinates is unknown"},
		"cites nothing known":    {"<EventIVORN cite=\"followup\">ivo:", "<EventIVORN>x:", "it cites what is no ivorn"},
		"too many parameters":    {"</Group>", strings.Repeat(`<Param name="a" value="b"/>`, maxParameters) + "</Group>", "it has more than 256 parameters"},
		"a long value":           {`"42.00"`, `"` + strings.Repeat("4", 257) + `"`, "it has a parameter that is too long, or without a name"},
		"too large":              {"<Who>", "<Who>" + strings.Repeat(" ", maxBytes), "it is larger than 262144 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(whole, c.was, c.is, 1)
			if text == whole {
				t.Fatal("nothing was replaced")
			}
			_, err := Parse(strings.NewReader(text))
			if err == nil || !strings.HasPrefix(err.Error(), "read notice: "+c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestEntitiesDoNotGrow: a document that defines entities is refused before one is
// replaced.
func TestEntitiesDoNotGrow(t *testing.T) {
	bomb := `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>` + strings.Replace(whole[strings.Index(whole, "\n"):], "42.00", "&b;", 1)
	if _, err := Parse(strings.NewReader(bomb)); err == nil {
		t.Error("it was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`<VOEvent ivorn="ivo://a"/>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := Parse(bytes.NewReader(b))
		if err != nil {
			return
		}
		text, err := json.Marshal(n)
		if err != nil {
			t.Fatalf("%+v: %v", n, err)
		}
		var again Notice
		if err := json.Unmarshal(text, &again); err != nil || again.ID != n.ID || Compare(again, n) != 0 {
			t.Fatalf("got %+v, %v, want %+v", again, err, n)
		}
	})
}

func TestSummary(t *testing.T) {
	at := func(minutes int) time.Time { return time.Date(2026, 1, 1, 0, minutes, 0, 0, time.UTC) }
	early := at(-1)
	a := Notice{ID: "a", Date: at(1), Type: Wakeup, Instrument: "ECLAIRs", Level: "N1e", Burst: "sb26010101", Position: &Position{RA: 1, Error: .1}, Observed: &early}
	b := Notice{ID: "b", Date: at(2), Type: Slewing, Instrument: "ECLAIRs", Burst: "sb26010101", Position: &Position{RA: 2, Error: .09}}
	c := Notice{ID: "c", Date: at(3), Type: MXTInitial, Instrument: "MXT", Level: "N2m", Burst: "sb26010101", Position: &Position{RA: 3, Error: .01}}
	d := Notice{ID: "d", Date: at(4), Type: NotSlewing, Instrument: "ECLAIRs", Burst: "sb26010101", Position: &Position{RA: 4, Error: .05}}
	e := Notice{ID: "e", Date: at(5), Type: Retraction, Instrument: "GRM", Burst: "sb26010101"}
	want := Burst{
		ID: "sb26010101", Notices: 5, First: at(1), Last: at(5), Observed: &early, Level: "N2m", Position: c.Position, By: "MXT",
		Slew: "not slewing", Retracted: true, Types: []int{202, 204, 209, 205, 219}, Instr: []string{"ECLAIRs", "GRM", "MXT"},
	}
	all := []Notice{a, b, c, d, e}
	for range 50 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got := Summary(slices.Clone(all)); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
	}
	if got := Summary([]Notice{b, a}); got.By != "ECLAIRs" || got.Position.RA != 2 || got.Slew != "slewing" || got.Retracted {
		t.Errorf("got %+v", got)
	}
}

// TestRealNotices reads those of the folder that FAIRLEAD_DATA names, if it has any.
func TestRealNotices(t *testing.T) {
	dir := os.Getenv("FAIRLEAD_DATA")
	files, err := filepath.Glob(filepath.Join(dir, "svom-notices", "*.xml"))
	if dir == "" || err != nil || len(files) == 0 {
		t.Skip("there are no real notices")
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Parse(bytes.NewReader(b))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(n.ID, n.Burst) || n.Observed == nil || n.Date.Before(*n.Observed) || n.Instrument != "GRM" && n.Position == nil || len(n.Parameters) < 10 {
			t.Errorf("%s: got %+v", name, n)
		}
	}
}

// The README sent a file that was not there.
func TestNoticeOfTheReadme(t *testing.T) {
	f, err := os.Open("../notice.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := Parse(f); err != nil || n.Role != "test" || n.Burst == "" {
		t.Errorf("got %+v, %v", n, err)
	}
}

// Package notice reads the alert notices of SVOM, which are VOEvents, and tells what
// the notices of one burst together say.
//
// Notices arrive out of order and more than once. A [Burst] depends on which notices
// there are and not on the order in which they came.
package notice

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Types of notices that mean something here.
const (
	GRMTrigger = 201
	Wakeup     = 202
	Catalogue  = 203
	Slewing    = 204
	NotSlewing = 205
	MXTInitial = 209
	MXTUpdate  = 210
	VT         = 211
	Retraction = 219
)

// Notice is one alert notice. ID and Serial together name it.
type Notice struct {
	ID         string      `json:"id"`   // the VOEvent's IVORN
	Role       string      `json:"role"` // observation, prediction, utility, test
	Date       time.Time   `json:"date"` // when it was written
	Type       int         `json:"packet_type"`
	Serial     int         `json:"serial"`
	Instrument string      `json:"instrument"`
	Level      string      `json:"level,omitempty"` // N1e, N2m, ...
	Burst      string      `json:"burst_id"`
	Observed   *time.Time  `json:"observed,omitempty"`
	Position   *Position   `json:"position,omitempty"`
	Parameters []Parameter `json:"parameters,omitempty"`
	Cites      []string    `json:"cites,omitempty"` // IDs of notices that it follows, supersedes or retracts
}

// Position is a place in the sky, in degrees.
type Position struct {
	RA    float64 `json:"ra"`              // 0 to below 360
	Dec   float64 `json:"dec"`             // -90 to 90
	Error float64 `json:"error,omitempty"` // radius; 0: it is not known, as with those of GRM
}

// Parameter is a value as the notice writes it.
type Parameter struct {
	Group string `json:"group,omitempty"`
	Name  string `json:"name"`
	Value string `json:"value"`
	Unit  string `json:"unit,omitempty"`
}

// voevent is what is read of VOEvent 2.0 (IVOA recommendation of 2011-07-11).
type voevent struct {
	XMLName xml.Name
	IVORN   string      `xml:"ivorn,attr"`
	Role    string      `xml:"role,attr"`
	Date    string      `xml:"Who>Date"`
	Params  []parameter `xml:"What>Param"`
	Groups  []struct {
		Name   string      `xml:"name,attr"`
		Params []parameter `xml:"Param"`
	} `xml:"What>Group"`
	Coords *struct {
		System   string `xml:"coord_system_id,attr"`
		Time     string `xml:"Time>TimeInstant>ISOTime"`
		Position *struct {
			Unit  string `xml:"unit,attr"`
			RA    string `xml:"Value2>C1"`
			Dec   string `xml:"Value2>C2"`
			Error string `xml:"Error2Radius"`
		} `xml:"Position2D"`
	} `xml:"WhereWhen>ObsDataLocation>ObservationLocation>AstroCoords"`
	Cites []string `xml:"Citations>EventIVORN"`
}

type parameter struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
	Unit  string `xml:"unit,attr"`
}

// Bounds of what is read: a notice has some 30 parameters and 4 KiB.
const (
	maxBytes      = 256 << 10
	maxParameters = 256
	maxCites      = 256
)

var (
	burstID = regexp.MustCompile(`^[a-z]{2}[0-9]{8}$`)
	ivorn   = regexp.MustCompile(`^ivo://[!-~]{1,250}$`)
)

// Parse reads one VOEvent, of at most 256 KiB. The error says what is missing or
// wrong, and holds nothing of the document but names.
func Parse(r io.Reader) (Notice, error) {
	n, err := parse(r)
	if err != nil {
		return Notice{}, fmt.Errorf("read notice: %w", err)
	}
	return n, nil
}

func parse(r io.Reader) (Notice, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return Notice{}, err
	}
	if len(b) > maxBytes {
		return Notice{}, fmt.Errorf("it is larger than %d bytes", maxBytes)
	}
	var v voevent
	if err := xml.Unmarshal(b, &v); err != nil {
		return Notice{}, fmt.Errorf("it is no VOEvent: %w", err)
	}
	if v.XMLName.Local != "VOEvent" {
		return Notice{}, errors.New("it is no VOEvent")
	}
	n := Notice{ID: v.IVORN, Role: v.Role}
	if !ivorn.MatchString(n.ID) {
		return Notice{}, errors.New("its ivorn is missing or wrong")
	}
	switch n.Role {
	case "":
		n.Role = "observation" // the standard's default
	case "observation", "prediction", "utility", "test":
	default:
		return Notice{}, errors.New("its role is unknown")
	}
	if n.Date, err = instant(v.Date); err != nil {
		return Notice{}, fmt.Errorf("its date: %w", err)
	}
	if err := n.takeParameters(&v); err != nil {
		return Notice{}, err
	}
	if len(v.Cites) > maxCites {
		return Notice{}, fmt.Errorf("it cites more than %d others", maxCites)
	}
	for _, c := range v.Cites {
		c = strings.TrimSpace(c)
		if !ivorn.MatchString(c) {
			return Notice{}, errors.New("it cites what is no ivorn")
		}
		n.Cites = append(n.Cites, c)
	}
	return n, n.place(&v)
}

// takeParameters reads what names the notice, and keeps the other parameters.
func (n *Notice) takeParameters(v *voevent) error {
	all := make([]Parameter, 0, 32)
	for _, p := range v.Params {
		all = append(all, Parameter{Name: p.Name, Value: p.Value, Unit: p.Unit})
	}
	for _, g := range v.Groups {
		for _, p := range g.Params {
			all = append(all, Parameter{Group: g.Name, Name: p.Name, Value: p.Value, Unit: p.Unit})
		}
	}
	if len(all) > maxParameters {
		return fmt.Errorf("it has more than %d parameters", maxParameters)
	}
	var kind, serial string
	for _, p := range all {
		if p.Name == "" || len(p.Name) > 64 || len(p.Group) > 64 || len(p.Value) > 256 || len(p.Unit) > 64 {
			return errors.New("it has a parameter that is too long, or without a name")
		}
		switch p.Name {
		case "Packet_Type":
			kind = p.Value
		case "Pkt_Ser_Num":
			serial = p.Value
		case "Instrument":
			n.Instrument = p.Value
		case "Notice_Level":
			n.Level = p.Value
		case "Burst_Id":
			n.Burst = p.Value
		default:
			n.Parameters = append(n.Parameters, p)
		}
	}
	var err error
	if n.Type, err = strconv.Atoi(kind); err != nil || n.Type < 1 || n.Type > 999 {
		return errors.New("its Packet_Type is missing or wrong")
	}
	if n.Serial, err = strconv.Atoi(serial); err != nil || n.Serial < 0 {
		return errors.New("its Pkt_Ser_Num is missing or wrong")
	}
	if !burstID.MatchString(n.Burst) {
		return errors.New("its Burst_Id is missing or wrong")
	}
	if n.Instrument == "" || len(n.Instrument) > 32 {
		return errors.New("its Instrument is missing or too long")
	}
	if len(n.Level) > 16 {
		return errors.New("its Notice_Level is too long")
	}
	return nil
}

// place reads where and when, which a notice need not have.
func (n *Notice) place(v *voevent) error {
	c := v.Coords
	if c == nil {
		return nil
	}
	if c.System != "UTC-ICRS-GEO" && c.System != "UTC-ICRS-TOPO" && c.System != "UTC-FK5-GEO" {
		return errors.New("its system of coordinates is unknown")
	}
	if c.Time != "" {
		t, err := instant(c.Time)
		if err != nil {
			return fmt.Errorf("its ISOTime: %w", err)
		}
		n.Observed = &t
	}
	if c.Position == nil {
		return nil
	}
	if c.Position.Unit != "deg" {
		return errors.New("its position is not in degrees")
	}
	ra, okRA := degrees(c.Position.RA, 0, math.Nextafter(360, 0))
	dec, okDec := degrees(c.Position.Dec, -90, 90)
	radius, okRadius := degrees(c.Position.Error, 0, 180)
	if _, unknown := degrees(c.Position.Error, -1, -1); unknown {
		radius, okRadius = 0, true
	}
	switch {
	case !okRA:
		return errors.New("its right ascension is missing or wrong")
	case !okDec:
		return errors.New("its declination is missing or wrong")
	case !okRadius:
		return errors.New("its error radius is missing or wrong")
	}
	n.Position = &Position{RA: ra, Dec: dec, Error: radius}
	return nil
}

// degrees reads a number between two others.
func degrees(text string, from, to float64) (float64, bool) {
	x, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return x, err == nil && x >= from && x <= to // NaN is not
}

// instant reads a time of ISO 8601, UTC where it has no zone.
func instant(s string) (time.Time, error) {
	s = strings.TrimSpace(s)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			if y := t.UTC().Year(); y < 1 || y > 9999 {
				break // JSON has no such year
			}
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("it is no time of ISO 8601")
}

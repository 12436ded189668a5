// Package sky invents what a VHF receiver hears: packets of alerts all the time, and
// now and then a burst, whose notices come out of order and some of them twice. All
// of it says that it is a test.
package sky

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"fairlead/stacks/svom/message"
	"fairlead/stacks/svom/notice"
)

// between is how many steps there are from one burst to the next.
const between = 12

// aftermath is how long a burst is told of: of a real one it is minutes. All of it is
// over when the first notice is heard.
const aftermath = 10 * time.Second

// Sky invents data. It is not safe for concurrent use.
type Sky struct {
	random *rand.Rand
	steps  int
	bursts int
	coming []notice.Notice // of the burst under way
}

// New returns a sky whose bursts depend on the random numbers only.
func New(random *rand.Rand) *Sky { return &Sky{random: random} }

// Next returns what is heard in one step.
func (s *Sky) Next(now time.Time) ([]message.DataNotification, error) {
	packet, err := s.packet(now)
	if err != nil {
		return nil, err
	}
	list := []message.DataNotification{packet}
	if s.steps%between == 0 {
		s.coming = s.burst(now)
	}
	s.steps++
	if len(s.coming) > 0 {
		n := s.coming[0]
		s.coming = s.coming[1:]
		d, err := message.OfNotice("VHF", n, now)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
		if s.random.IntN(3) == 0 {
			list = append(list, d) // ground stations overlap
		}
	}
	return list, nil
}

// packet is a decoded packet of an ECLAIRs alert.
func (s *Sky) packet(now time.Time) (message.DataNotification, error) {
	r := s.random
	seconds := now.Unix() - time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	text, err := json.Marshal(map[string]any{
		"CcsdsTmHeadr": map[string]any{"CcsdsApid": 576, "CcsdsGFlag": 3, "CcsdsCounter": s.steps % (1 << 14), "CcsdsPLength": 87},
		"VhfTmHeader":  map[string]any{"DPacketTimeS": seconds},
		"IObservId":    map[string]any{"IObsType": 0, "NObsNumber": 1 + s.bursts},

		"Alert_MsgCount": s.steps % between, "Alert_TimeTb": seconds, "Alert_SlewRequest": r.IntN(2),
		"Alert_SkyTheta": r.IntN(1 << 23), "Alert_SkyPhi": r.IntN(1 << 23), "Alert_Quality": r.IntN(100),
		"Alert_DetCounts": 4_000_000 + r.IntN(1_000_000), "Alert_DetBkg": 4_000_000 + r.IntN(1_000_000),
		"Sat_PositionX": round(6_990 * math.Cos(float64(seconds)/920)), "Sat_PositionY": round(6_990 * math.Sin(float64(seconds)/920)), "Sat_PositionZ": 0,
		"Sat_AttitudeQ0": 1, "Sat_AttitudeQ1": 0, "Sat_AttitudeQ2": 0, "Sat_AttitudeQ3": 0,
	})
	if err != nil {
		return message.DataNotification{}, fmt.Errorf("write packet: %w", err)
	}
	return message.DataNotification{Data: message.Data{
		Source: "VHF", Type: message.TypeAlert, Date: message.Date(now), Message: string(text),
		Resource: fmt.Sprintf("svom://packets/%d/%d", seconds, s.steps),
	}}, nil
}

// burst is what will be told of one burst, in the order in which it is heard.
func (s *Sky) burst(now time.Time) []notice.Notice {
	r := s.random
	s.bursts++
	id := fmt.Sprintf("tb%08d", now.Unix()%1e8) // no other burst within three years
	ra, dec := r.Float64()*360, math.Asin(2*r.Float64()-1)*180/math.Pi
	near := func(radius float64) *notice.Position {
		return &notice.Position{RA: round(math.Mod(ra+r.Float64()*radius+360, 360)), Dec: round(max(-90, min(90, dec+(r.Float64()-.5)*radius))), Error: radius}
	}
	seen := now.UTC().Truncate(time.Millisecond).Add(-aftermath)
	var list []notice.Notice
	add := func(after time.Duration, kind int, name, instrument, level string, p *notice.Position) {
		list = append(list, notice.Notice{
			ID: "ivo://org.example/simulated#" + id + "_" + name + "_" + fmt.Sprint(seen.UnixMilli()), Role: "test", Date: seen.Add(after).Truncate(time.Second), Type: kind, Serial: 1,
			Instrument: instrument, Level: level, Burst: id, Observed: &seen, Position: p,
		})
	}
	add(time.Second, notice.GRMTrigger, "grm-trigger", "GRM", "N1g", nil)
	add(2*time.Second, notice.Wakeup, "eclairs-wakeup", "ECLAIRs", "N1e", near(.1))
	if r.IntN(4) == 0 {
		add(4*time.Second, notice.NotSlewing, "not-slewing", "ECLAIRs", "N1e", near(.1))
		if r.IntN(2) == 0 {
			add(6*time.Second, notice.Retraction, "retraction", "ECLAIRs", "N1e", nil)
		}
	} else {
		add(4*time.Second, notice.Slewing, "slewing", "ECLAIRs", "N1e", near(.08))
		add(6*time.Second, notice.MXTInitial, "mxt-initial", "MXT", "N2m", near(.02))
		add(8*time.Second, notice.MXTUpdate, "mxt-update", "MXT", "N2m", near(.01))
		add(aftermath, notice.VT, "vt", "VT", "N2v", near(.0005))
	}
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// round keeps four decimals.
func round(x float64) float64 { return math.Round(x*1e4) / 1e4 }

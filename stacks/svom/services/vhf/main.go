// Vhf is the service that stands for the VHF receiver: it takes alert notices as
// VOEvents over HTTP, and publishes each as a DataNotification on data.vhf. Where
// SIMULATE says how often, it also invents packets and bursts.
package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"fairlead/service"
	"fairlead/stacks/svom/message"
	"fairlead/stacks/svom/notice"
	"fairlead/stacks/svom/services/vhf/sky"
)

const (
	beat    = 5 * time.Second
	subject = "data.vhf"
	source  = "VHF"
)

func main() {
	service.Main(setup)
}

func setup(s *service.Service) error {
	v := &receiver{s}
	s.HTTP("POST /api/notices", v.take)
	go message.Heartbeat(s.Context(), s, "activity.infrastructure", "VHF_RECEIVER", beat)
	if text := os.Getenv("SIMULATE"); text != "" {
		every, err := time.ParseDuration(text)
		if err != nil || every <= 0 {
			return fmt.Errorf("read SIMULATE: must be a duration such as 2s, is %q", text)
		}
		go v.simulate(every)
	}
	return nil
}

type receiver struct{ *service.Service }

// take publishes a notice, as often as it comes: those that follow know which they
// have.
func (v *receiver) take(w http.ResponseWriter, r *http.Request) error {
	n, err := notice.Parse(r.Body)
	if err != nil {
		return service.Errorf(http.StatusUnprocessableEntity, "%s: %w", err, err)
	}
	d, err := message.OfNotice(source, n, time.Now())
	if err != nil {
		return err
	}
	if err := service.Publish(r.Context(), v.Service, subject, d); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	return json.NewEncoder(w).Encode(map[string]any{"id": n.ID, "burst_id": n.Burst})
}

// simulate publishes what an invented sky shows, until the service stops.
func (v *receiver) simulate(every time.Duration) {
	ctx := v.Context()
	tick := time.NewTicker(every)
	defer tick.Stop()
	s := sky.New(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			list, err := s.Next(now)
			for _, d := range list {
				if err == nil {
					err = service.Publish(ctx, v.Service, subject, d)
				}
			}
			if err != nil && ctx.Err() == nil {
				v.Logger().WarnContext(ctx, "simulated data not published", "error", err)
			}
		}
	}
}

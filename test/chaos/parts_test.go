package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"fairlead/service"
)

// play is a service of the system under test.
func play(part string) {
	service.Main(map[string]func(*service.Service) error{"web": web, "bus": bus, "live": live}[part])
}

// web echoes bodies, after a moment if it is asked to.
func web(s *service.Service) error {
	s.HTTP("/", func(w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		if d, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return r.Context().Err()
			}
		}
		w.Header().Set("Instance", r.Header.Get("Fairlead-Instance"))
		_, err = fmt.Fprintf(w, "%s %s", r.Method, body)
		return err
	})
	return nil
}

// bus echoes messages.
func bus(s *service.Service) error {
	service.Answer(s, "bus.echo", func(_ context.Context, m json.RawMessage) (json.RawMessage, error) { return m, nil })
	return nil
}

// live has WebSockets that echo, and events that count.
func live(s *service.Service) error {
	s.HTTP("GET /ws", func(w http.ResponseWriter, r *http.Request) error {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer c.CloseNow()
		stop := context.AfterFunc(s.Context(), func() { _ = c.Close(websocket.StatusGoingAway, "the service stops") })
		defer stop()
		for {
			kind, b, err := c.Read(context.Background())
			if err != nil {
				return nil
			}
			if err := c.Write(context.Background(), kind, b); err != nil {
				return nil
			}
		}
	})
	s.HTTP("GET /events", func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", "text/event-stream")
		out := http.NewResponseController(w)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "id: %d\ndata: %d\n\n", i, i); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return nil
			case <-s.Context().Done():
				return nil
			}
		}
	})
	return nil
}

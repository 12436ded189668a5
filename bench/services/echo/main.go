// Command echo gives back what it is sent, over the bus and over HTTP.
package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"fairlead/service"
)

// reply is what GET /http answers: 280 bytes, the size of the measured peers'.
var reply = make([]byte, 280)

func main() {
	for i := range reply {
		reply[i] = 'x'
	}
	service.Main(func(s *service.Service) error {
		service.Answer(s, "echo.back", func(_ context.Context, data json.RawMessage) (json.RawMessage, error) {
			return data, nil
		})
		s.HTTP("/http", func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodPost {
				// Read whole first: net/http ends the body once the answer begins.
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return err
				}
				_, err = w.Write(body)
				return err
			}
			w.Header().Set("Content-Type", "text/plain")
			_, err := w.Write(reply)
			return err
		})
		return nil
	})
}

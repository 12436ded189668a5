package service_test

import (
	"context"
	"net/http"

	"fairlead/service"
)

type findRequest struct {
	HS   string `json:"hs"`
	Year int    `json:"year"`
}

type flow struct {
	HS    string  `json:"hs"`
	Year  int     `json:"year"`
	Value float64 `json:"value"`
}

// A service that answers on the bus and serves HTTP. fairlead starts it with the
// environment that it needs; there is nothing to configure.
func Example() {
	service.Main(func(s *service.Service) error {
		known := map[string]flow{"8517": {HS: "8517", Year: 2023, Value: 1234.5}}

		service.Answer(s, "tradeflow.find", func(ctx context.Context, r findRequest) (flow, error) {
			f, ok := known[r.HS]
			if !ok {
				return flow{}, service.Errorf(http.StatusNotFound, "no flow of %s is known", r.HS)
			}
			return f, nil
		})

		s.HTTP("POST /api/flows/import", func(w http.ResponseWriter, r *http.Request) error {
			user, ok := service.User(r.Context())
			if !ok || !user.HasRole("analyst") {
				return service.Errorf(http.StatusForbidden, "only analysts import")
			}
			s.Logger().InfoContext(r.Context(), "import begins", "user", user.Subject)
			w.WriteHeader(http.StatusAccepted)
			return nil
		})
		return nil
	})
}

// A handler asks another service. What it returns on tells the client the same: the
// status and the public text of the other service, or 503 if nobody is there.
func ExampleAsk() {
	type commodityRequest struct {
		Code string `json:"code"`
	}
	type commodity struct {
		Code, Text string
	}
	setup := func(s *service.Service) error {
		service.Answer(s, "tradeflow.describe", func(ctx context.Context, r findRequest) (string, error) {
			c, err := service.Ask[commodityRequest, commodity](ctx, s, "model.commodity", commodityRequest{Code: r.HS})
			if err != nil {
				return "", err
			}
			return c.Text, nil
		})
		return nil
	}
	service.Main(setup)
}

// A reply with a status of its own, and one without any content.
func ExampleReply() {
	setup := func(s *service.Service) error {
		service.Answer(s, "notes.create", func(context.Context, struct{ Text string }) (service.Reply[flow], error) {
			return service.Reply[flow]{Status: http.StatusCreated, Body: flow{}}, nil
		})
		service.Answer(s, "notes.delete", func(context.Context, struct{ ID string }) (struct{}, error) {
			return struct{}{}, nil // 204
		})
		return nil
	}
	service.Main(setup)
}

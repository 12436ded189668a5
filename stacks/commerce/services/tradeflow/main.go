// Tradeflow is the service that keeps the trade flows of the commerce system:
// imports of UN Comtrade's answers, search, sums, and export as CSV.
package main

import (
	"net/http"

	"fairlead/service"
	_ "fairlead/service/sqlite" // the trade database
	"fairlead/stacks/commerce/services/tradeflow/flows"
)

func main() {
	service.Main(setup)
}

func setup(s *service.Service) error {
	store := flows.NewStore(s.Database("trade"))
	seeded, err := store.Seed(s.Context())
	if err != nil {
		return err
	}
	if seeded > 0 {
		s.Logger().Info("samples stored", "flows", seeded)
	}
	a := &api{store: store, model: &model{service: s}, importing: make(chan struct{}, importsAtOnce)}
	service.Answer(s, "tradeflow.find", a.find)
	service.Answer(s, "tradeflow.summary", a.summary)
	s.HTTP("POST /api/flows/import", a.importFlows)
	s.HTTP("GET /api/flows/export.csv", a.export)
	return nil
}

// badRequest is an input that cannot be meant.
func badRequest(text string, args ...any) error {
	return service.Errorf(http.StatusUnprocessableEntity, text, args...)
}

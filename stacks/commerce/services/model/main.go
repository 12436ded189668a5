// Model is the service that knows the models behind the trade flows of the commerce
// system: commodities of the Harmonized System, and countries with their UN codes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"fairlead/service"
	_ "fairlead/service/sqlite" // the model database
	"fairlead/stacks/commerce/services/model/tree"
)

func main() {
	service.Main(setup)
}

func setup(s *service.Service) error {
	store := tree.NewStore(s.Database("model"))
	seeded, err := store.Seed(s.Context())
	if err != nil {
		return err
	}
	if seeded {
		s.Logger().Info("samples stored")
	}
	a := api{store}
	service.Answer(s, "model.commodities", a.commodities)
	service.Answer(s, "model.commodity", a.commodity)
	service.Answer(s, "model.countries", a.countries)
	s.HTTP("POST /api/model/commodities/import", a.importReference)
	return nil
}

// api is what the service answers.
type api struct{ store *tree.Store }

type commoditiesQuery struct {
	Q      string `json:"q"`
	Parent string `json:"parent"`
	Level  *int   `json:"level"`
	After  string `json:"after"`
	Limit  int    `json:"limit"`
}

func (a api) commodities(ctx context.Context, q commoditiesQuery) (tree.Commodities, error) {
	return a.store.FindCommodities(ctx, tree.CommodityQuery{Text: q.Q, Parent: q.Parent, Level: q.Level, After: q.After, Limit: q.Limit})
}

type commodityQuery struct {
	Code string `json:"code"`
}

func (a api) commodity(ctx context.Context, q commodityQuery) (tree.Branch, error) {
	b, err := a.store.Commodity(ctx, q.Code)
	if errors.Is(err, tree.ErrUnknown) {
		return b, service.Errorf(http.StatusNotFound, "commodity %.20q is not known", q.Code)
	}
	return b, err
}

type countriesQuery struct {
	Q      string `json:"q"`
	Kind   string `json:"kind"`
	Former bool   `json:"former"`
	After  *int   `json:"after"`
	Limit  int    `json:"limit"`
}

func (a api) countries(ctx context.Context, q countriesQuery) (tree.Countries, error) {
	return a.store.FindCountries(ctx, tree.CountryQuery{Text: q.Q, Kind: q.Kind, Former: q.Former, After: q.After, Limit: q.Limit})
}

func (a api) importReference(w http.ResponseWriter, r *http.Request) error {
	report, err := a.store.ImportReference(r.Context(), r.Body)
	var large *http.MaxBytesError
	var format *tree.FormatError
	switch {
	case errors.As(err, &large):
		return service.Errorf(http.StatusRequestEntityTooLarge, "the reference is too large: %w", err)
	case errors.As(err, &format):
		return service.Errorf(http.StatusUnprocessableEntity, "%s; nothing was changed: %w", format.Problem, err)
	case err != nil:
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"fairlead/service"
	"fairlead/stacks/commerce/services/tradeflow/flows"
)

const (
	modelFresh   = 5 * time.Minute
	modelRetry   = 5 * time.Second // least time between two questions that failed
	modelTimeout = 3 * time.Second
	modelPage    = 1000
)

// model asks the model service for names, and remembers them: while it is away the
// last answer goes on to be used.
type model struct {
	service *service.Service

	mu       sync.Mutex // guards what follows; held while asking, so that one asks for all
	areas    *flows.Areas
	chapters map[string]string
	asked    time.Time
	failed   time.Time
}

// names returns the areas and the texts of the chapters. An error means that they
// were never had.
func (m *model) names(ctx context.Context) (*flows.Areas, map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.areas != nil && (time.Since(m.asked) < modelFresh || time.Since(m.failed) < modelRetry) {
		return m.areas, m.chapters, nil
	}
	// Whoever happens to ask must not take the answer from the others when he leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), modelTimeout)
	defer cancel()
	areas, chapters, err := m.ask(ctx)
	if err != nil {
		m.failed = time.Now()
		if m.areas == nil {
			return nil, nil, fmt.Errorf("ask model: %w", err)
		}
		m.service.Logger().WarnContext(ctx, "model does not answer, using what it said before", "error", err)
		return m.areas, m.chapters, nil
	}
	m.areas, m.chapters, m.asked = areas, chapters, time.Now()
	return areas, chapters, nil
}

func (m *model) ask(ctx context.Context) (*flows.Areas, map[string]string, error) {
	areas, err := pages(ctx, m.service, "model.countries", map[string]any{"former": true}, func(a flows.Area) string { return strconv.Itoa(a.Code) })
	if err != nil {
		return nil, nil, err
	}
	type commodity struct {
		Code string `json:"code"`
		Text string `json:"text"`
	}
	list, err := pages(ctx, m.service, "model.commodities", map[string]any{"level": 2}, func(c commodity) string { return c.Code })
	if err != nil {
		return nil, nil, err
	}
	chapters := make(map[string]string, len(list))
	for _, c := range list {
		chapters[c.Code] = c.Text
	}
	return flows.NewAreas(areas), chapters, nil
}

// pages asks for all pages of a list.
func pages[T any](ctx context.Context, s *service.Service, subject string, query map[string]any, mark func(T) string) ([]T, error) {
	var all []T
	query["limit"] = modelPage
	for {
		page, err := service.Ask[map[string]any, struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}](ctx, s, subject, query)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" || len(page.Items) == 0 {
			return all, nil
		}
		query["after"] = json.RawMessage(strconv.Quote(mark(page.Items[len(page.Items)-1])))
	}
}

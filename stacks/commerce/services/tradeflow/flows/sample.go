package flows

import (
	"context"
	"database/sql"
	"fmt"
)

// Seed fills an empty store with invented flows, so that a fresh system has
// something to show, and returns how many. The first import removes them. A store
// that ever held anything is left alone.
func (s *Store) Seed(ctx context.Context) (int, error) {
	seeded := 0
	err := s.write(ctx, func(ctx context.Context, conn *sql.Conn) error {
		seeded = 0
		var used bool
		if err := conn.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM flows)`).Scan(&used); err != nil {
			return fmt.Errorf("look for flows: %w", err)
		}
		if used {
			return nil
		}
		records := Sample()
		if _, err := apply(ctx, conn, records); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, `INSERT INTO origin (sample) VALUES (1)`); err != nil {
			return fmt.Errorf("mark samples: %w", err)
		}
		seeded = len(records)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("seed flows: %w", err)
	}
	return seeded, nil
}

// Sample returns a few hundred flows of our own invention between real areas: per
// reporter and year one total and some chapters and headings, by partner, with the
// world beside them, so that every part of the rule for sums has something to do.
func Sample() []Record {
	var (
		reporters = []int{756 + 1, 251, 276, 842}
		partners  = []int{World, 56, 156, 251, 276, 380, 392, 579, 757, 842}
		codes     = []string{Total, "10", "1001", "44", "4407", "84", "8471", "90"}
		records   []Record
	)
	for ri, reporter := range reporters {
		for year := 2021; year <= 2023; year++ {
			for pi, partner := range partners {
				if partner == reporter || (ri+pi+year)%3 == 0 && partner != World {
					continue
				}
				for ci, code := range codes {
					// Not every partner has every level, as in real answers.
					if code == Total && pi%2 == 1 || code != Total && (ci+pi+ri)%3 == 0 {
						continue
					}
					flow := "M"
					if (ri+pi+ci)%2 == 1 {
						flow = "X"
					}
					size := Amount(1_000_003*(ri+2)*(pi+3)*(year-2018)) * Amount(97-11*ci)
					if partner == World {
						size *= 20
					}
					records = append(records, Record{
						Key: Key{
							Reporter: reporter, Period: year, Flow: flow, Partner: partner, Cmd: code,
							Class: "H6", Customs: DefaultCustoms,
						},
						Value: size,
					})
				}
			}
		}
	}
	return records
}

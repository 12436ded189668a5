package main

import (
	"fmt"
	"time"
)

// start: from `up` to the first answer, and what a system that does nothing costs.
func (b *bench) start() error {
	var first []time.Duration
	var node, keeper, nodeCPU, keeperCPU []float64
	for i := range min(b.rounds, 5) + 1 {
		u, err := b.up("stacks/commerce", "/api/model/countries?limit=1")
		if err != nil {
			return err
		}
		if i > 0 { // the first one built
			first = append(first, u.took)
			st, err := u.status()
			if err != nil {
				return err
			}
			const idle = 5 * time.Second
			time.Sleep(time.Second)
			n0, k0 := cpu(st.PID), cpu(st.KeeperPID)
			time.Sleep(idle)
			nodeCPU = append(nodeCPU, 100*(cpu(st.PID)-n0)/idle.Seconds())
			keeperCPU = append(keeperCPU, 100*(cpu(st.KeeperPID)-k0)/idle.Seconds())
			node, keeper = append(node, resident(st.PID)), append(keeper, resident(st.KeeperPID))
		}
		u.stop()
	}
	b.table("Start and rest (commerce: 3 services, 5 instances)", "| what | median |",
		fmt.Sprintf("| `up`, already built, to the first answered request | %s |", median(first).Round(time.Millisecond)),
		fmt.Sprintf("| resident memory, node / keeper | %.1f MiB / %.1f MiB |", median(node), median(keeper)),
		fmt.Sprintf("| processor at rest, node / keeper | %.1f %% / %.1f %% of one |", median(nodeCPU), median(keeperCPU)))
	return nil
}

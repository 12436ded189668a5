package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// queues: publishing to a queue and consuming from it with package service, against
// nats.go alone on the same queue; the benchmarks of the package, each side once in
// every round.
func (b *bench) queues() error {
	test := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkQueue(Publish|Batch|Consume|Latency)", "-benchtime", "2000x", "-count", strconv.Itoa(b.rounds), "./service")
	test.Stderr = os.Stderr
	out, err := test.Output()
	if err != nil {
		return fmt.Errorf("run benchmarks: %w\n%s", err, out)
	}
	names, measured := benchmarks(out)
	var rows []string
	for _, name := range names {
		m := measured[name]
		row := []string{strings.TrimPrefix(name, "BenchmarkQueue")}
		for _, unit := range []string{"ns/op", "cpu-ns/op", "p50-µs", "p99-µs"} {
			text := ""
			if values := m[unit]; len(values) > 0 {
				slices.Sort(values)
				text = strconv.FormatFloat(values[len(values)/2], 'f', 0, 64)
			}
			row = append(row, text)
		}
		rows = append(rows, "| "+strings.Join(row, " | ")+" |")
	}
	b.table("Queues: package service beside nats.go, medians", "| what | ns/op | processor ns/op | p50 µs | p99 µs |", rows...)
	return nil
}

// benchmarks reads what `go test -bench` has written: by the names of the benchmarks,
// in their order, the values of each unit.
func benchmarks(out []byte) (names []string, measured map[string]map[string][]float64) {
	measured = map[string]map[string][]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of processors
			name = name[:i]
		}
		if measured[name] == nil {
			measured[name] = map[string][]float64{}
			names = append(names, name)
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				measured[name][fields[i+1]] = append(measured[name][fields[i+1]], v)
			}
		}
	}
	return names, measured
}

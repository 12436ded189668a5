package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// spent reads the processor seconds that this process and everything it has started
// have used: the load, the system, and the peers, of which only one side works at a
// time. On a machine that does other things too, it says more than the time of day.
func spent() float64 {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0
	}
	parents := make(map[int]int, len(stats))
	seconds := make(map[int]float64, len(stats))
	for _, path := range stats {
		fields := statFields(path)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if fields == nil || err != nil {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1]) // proc(5) promises a number
		seconds[pid] = processorSeconds(fields)
	}
	self := os.Getpid()
	var sum float64
	for pid, s := range seconds {
		for p := pid; p > 1; p = parents[p] {
			if p == self {
				sum += s
				break
			}
		}
	}
	return sum
}

// cpu reads the processor seconds that a process has used.
func cpu(pid int) float64 {
	return processorSeconds(statFields("/proc/" + strconv.Itoa(pid) + "/stat"))
}

// statFields returns what follows the name in a process's stat (proc(5)), nil if it
// is gone.
func statFields(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}

// processorSeconds reads utime and stime, in ticks of 10 ms.
func processorSeconds(fields []string) float64 {
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	kernel, _ := strconv.ParseFloat(fields[12], 64)
	return (user + kernel) / 100
}

// resident reads a process's resident memory in MiB (proc(5), status, VmRSS).
func resident(pid int) float64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kb / 1024
		}
	}
	return 0
}

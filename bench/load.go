package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// result is what one side did in one round.
type result struct {
	count    int
	failed   int
	took     time.Duration
	spent    float64         // processor seconds of all processes
	latency  []time.Duration // sorted
	lastFail error
}

func (r result) perSecond() float64 { return float64(r.count) / r.took.Seconds() }

// each is the processor time of one request, in microseconds.
func (r result) each() float64 { return r.spent * 1e6 / float64(r.count) }

func (r result) quantile(q float64) time.Duration {
	if len(r.latency) == 0 {
		return 0
	}
	return r.latency[min(int(q*float64(len(r.latency))), len(r.latency)-1)]
}

const requesters = 64

// drive runs do in 64 goroutines for d, each a loop of one request after the other.
func drive(d time.Duration, connect func() (do func() error, end func(), err error)) (result, error) {
	return driveWith(requesters, d, connect)
}

// driveWith is drive with n goroutines.
func driveWith(n int, d time.Duration, connect func() (do func() error, end func(), err error)) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var mu sync.Mutex // guards total
	var total result
	var wg sync.WaitGroup
	begin, before := time.Now(), spent()
	for range n {
		do, closeIt, err := connect()
		if err != nil {
			return total, err
		}
		wg.Go(func() {
			defer closeIt()
			var mine result
			for ctx.Err() == nil {
				start := time.Now()
				if err := do(); err != nil {
					mine.failed++
					mine.lastFail = err
					if mine.failed > 100 {
						break
					}
					continue
				}
				mine.count++
				mine.latency = append(mine.latency, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			total.count += mine.count
			total.failed += mine.failed
			total.latency = append(total.latency, mine.latency...)
			if mine.lastFail != nil {
				total.lastFail = mine.lastFail
			}
		})
	}
	wg.Wait()
	total.took, total.spent = time.Since(begin), spent()-before
	slices.Sort(total.latency)
	return total, nil
}

// request is what a connection of driveHTTP sends.
func request(method, path string, header []string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: bench\r\n", method, path)
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	if body != nil {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// overHTTP is a side that sends the same request over 64 connections.
func (b *bench) overHTTP(address, method, path string, body []byte) func() (result, error) {
	same := request(method, path, nil, body)
	return func() (result, error) {
		return driveHTTP(requesters, b.length, address, func([]byte) []byte { return same })
	}
}

// pair runs two sides in turn, a b a b ..., and reports medians.
type pair struct {
	name  string
	a, b  side
	limit string // what the ratio a/b must reach, for the table
}

type side struct {
	name string
	run  func() (result, error)
}

func (p pair) measure(rounds int) (row string, err error) {
	var as, bs, ca, cb, ratios []float64
	var pa, pb []time.Duration
	failed := 0
	for range rounds {
		ra, err := p.a.run()
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.a.name, err)
		}
		rb, err := p.b.run()
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.b.name, err)
		}
		if ra.count == 0 || rb.count == 0 {
			return "", fmt.Errorf("%s: nothing succeeded: %w", p.name, errors.Join(ra.lastFail, rb.lastFail))
		}
		failed += ra.failed
		if rb.failed > 0 {
			fmt.Fprintf(os.Stderr, "%s: %d failed: %v\n", p.b.name, rb.failed, rb.lastFail)
		}
		if ra.failed > 0 {
			fmt.Fprintf(os.Stderr, "%s: %d failed: %v\n", p.a.name, ra.failed, ra.lastFail)
		}
		as, bs, ratios = append(as, ra.perSecond()), append(bs, rb.perSecond()), append(ratios, ra.perSecond()/rb.perSecond())
		ca, cb = append(ca, ra.each()), append(cb, rb.each())
		pa, pb = append(pa, ra.quantile(0.99)), append(pb, rb.quantile(0.99))
	}
	return fmt.Sprintf("| %s | %s: %.0f/s, p99 %s | %s: %.0f/s, p99 %s | %.2f (%.2f to %.2f) | %s | %.0f / %.0f us | %d |",
		p.name, p.a.name, median(as), short(median(pa)), p.b.name, median(bs), short(median(pb)),
		median(ratios), slices.Min(ratios), slices.Max(ratios), p.limit, median(ca), median(cb), failed), nil
}

func median[T float64 | time.Duration](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func short(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

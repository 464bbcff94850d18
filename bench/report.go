// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report collects the times of the variants of one part.
type report struct {
	title    string
	variants []string // in the order in which they came
	times    map[string][]time.Duration
	notes    []string
}

func newReport(title string) *report {
	return &report{title: title, times: map[string][]time.Duration{}}
}

// add notes one time of a variant. The first variant is what the others are
// compared with.
func (r *report) add(variant string, d time.Duration) {
	if _, ok := r.times[variant]; !ok {
		r.variants = append(r.variants, variant)
	}
	r.times[variant] = append(r.times[variant], d)
}

func (r *report) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(r.notes, n) {
		r.notes = append(r.notes, n)
	}
}

func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", r.title)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "variant\tmedian\tratio\tmin\tmax\truns")
	for _, v := range r.variants {
		ts := slices.Clone(r.times[v])
		slices.Sort(ts)
		ratio := float64(median(ts)) / float64(median(sorted(r.times[r.variants[0]])))
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%s\t%s\t%d\n",
			v, short(median(ts)), ratio, short(ts[0]), short(ts[len(ts)-1]), len(ts))
	}
	_ = w.Flush() // out is the terminal
	for _, n := range r.notes {
		fmt.Fprintln(out, "note:", n)
	}
}

func sorted(ts []time.Duration) []time.Duration {
	ts = slices.Clone(ts)
	slices.Sort(ts)
	return ts
}

// median is the middle of what is sorted.
func median(ts []time.Duration) time.Duration { return ts[len(ts)/2] }

// short rounds to three digits or so.
func short(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(10 * time.Nanosecond)
}

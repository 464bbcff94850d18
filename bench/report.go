// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report collects the figures of the variants for one question.
type report struct {
	title    string
	unit     string   // what a figure is; "s" is printed as a duration
	variants []string // in the order in which they came
	figures  map[string][]float64
	notes    []string
}

// seconds is the unit of times.
const seconds = "s"

func newReport(title, unit string) *report {
	return &report{title: title, unit: unit, figures: map[string][]float64{}}
}

// add notes one figure of a variant. The first variant is what the others are
// compared with.
func (r *report) add(variant string, figure float64) {
	r.expect(variant)
	r.figures[variant] = append(r.figures[variant], figure)
}

// expect gives a variant its row before it has figures.
func (r *report) expect(variant string) {
	if _, ok := r.figures[variant]; !ok {
		r.variants = append(r.variants, variant)
		r.figures[variant] = nil
	}
}

// compare notes how a variant stands to another one of the same rounds, and how sure
// that is.
func (r *report) compare(variant, to string) {
	a, b := r.figures[variant], r.figures[to]
	if len(a) == 0 || len(a) != len(b) || variant == to {
		return
	}
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	slices.Sort(ratios)
	quarter := len(ratios) / 4
	r.note("%s to %s, round by round: %.2f, half of the rounds between %.2f and %.2f", variant, to,
		median(ratios), ratios[quarter], ratios[len(ratios)-1-quarter])
}

func (r *report) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(r.notes, n) {
		r.notes = append(r.notes, n)
	}
}

// row is what is told of one variant.
type row struct {
	variant, median, ratio, low, high string
	runs                              int
}

func (r *report) rows() []row {
	var rows []row
	for _, v := range r.variants {
		all := slices.Sorted(slices.Values(r.figures[v]))
		ratio := "-"
		if base := median(r.figures[r.variants[0]]); base != 0 {
			ratio = strconv.FormatFloat(median(all)/base, 'f', 2, 64)
		}
		rows = append(rows, row{v, r.text(median(all)), ratio, r.text(all[0]), r.text(all[len(all)-1]), len(all)})
	}
	return rows
}

// print writes the report for a terminal.
func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", r.heading())
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "variant\tmedian\tratio\tlowest\thighest\truns")
	for _, row := range r.rows() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", row.variant, row.median, row.ratio, row.low, row.high, row.runs)
	}
	_ = w.Flush() // out is the terminal
	for _, n := range r.notes {
		fmt.Fprintln(out, "note:", n)
	}
}

// markdown writes the report for docs/benchmarks.md.
func (r *report) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n### %s\n\n| | median | ratio | lowest | highest | runs |\n|---|---|---|---|---|---|\n", r.heading())
	for _, row := range r.rows() {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %d |\n", row.variant, row.median, row.ratio, row.low, row.high, row.runs)
	}
	for _, n := range r.notes {
		fmt.Fprintf(out, "\n%s%s.\n", strings.ToUpper(n[:1]), n[1:])
	}
}

func (r *report) heading() string {
	if r.unit == seconds || r.unit == "" {
		return r.title
	}
	return r.title + ", " + r.unit
}

// text rounds to three digits or so.
func (r *report) text(figure float64) string {
	if r.unit == seconds {
		return short(time.Duration(figure * float64(time.Second))).String()
	}
	switch {
	case figure >= 1000:
		digits := strconv.FormatFloat(figure, 'f', 0, 64)
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		return digits
	case figure >= 100:
		return strconv.FormatFloat(figure, 'f', 0, 64)
	}
	return strconv.FormatFloat(figure, 'g', 3, 64)
}

// median is the middle of the figures.
func median(figures []float64) float64 {
	return slices.Sorted(slices.Values(figures))[len(figures)/2]
}

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

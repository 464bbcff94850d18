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

// table collects the figures of the variants for one question.
type table struct {
	title    string
	unit     string   // what a figure is; "s" is printed as a duration
	variants []string // in order of appearance
	figures  map[string][]float64
	notes    []string
}

// seconds is the unit of times.
const seconds = "s"

func newTable(title, unit string) *table {
	return &table{title: title, unit: unit, figures: map[string][]float64{}}
}

// add notes one figure of a variant. The first variant is what the others are
// compared with.
func (t *table) add(variant string, figure float64) {
	t.expect(variant)
	t.figures[variant] = append(t.figures[variant], figure)
}

// expect gives a variant its row before it has figures.
func (t *table) expect(variant string) {
	if _, ok := t.figures[variant]; !ok {
		t.variants = append(t.variants, variant)
		t.figures[variant] = nil
	}
}

// compare notes how a variant stands to another one of the same rounds, and how sure
// that is.
func (t *table) compare(variant, to string) {
	a, b := t.figures[variant], t.figures[to]
	if len(a) == 0 || len(a) != len(b) || variant == to {
		return
	}
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	slices.Sort(ratios)
	quarter := len(ratios) / 4
	t.note("%s to %s, round by round: %.2f, half of the rounds between %.2f and %.2f", variant, to,
		median(ratios), ratios[quarter], ratios[len(ratios)-1-quarter])
}

func (t *table) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(t.notes, n) {
		t.notes = append(t.notes, n)
	}
}

// row is one variant in print.
type row struct {
	variant, median, ratio, low, high string
	runs                              int
}

func (t *table) rows() []row {
	var rows []row
	for _, v := range t.variants {
		all := slices.Sorted(slices.Values(t.figures[v]))
		ratio := "-"
		if base := median(t.figures[t.variants[0]]); base != 0 {
			ratio = strconv.FormatFloat(median(all)/base, 'f', 2, 64)
		}
		rows = append(rows, row{v, t.text(median(all)), ratio, t.text(all[0]), t.text(all[len(all)-1]), len(all)})
	}
	return rows
}

// print writes the table for a terminal.
func (t *table) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", t.heading())
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "variant\tmedian\tratio\tlowest\thighest\truns")
	for _, row := range t.rows() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", row.variant, row.median, row.ratio, row.low, row.high, row.runs)
	}
	_ = w.Flush() // out is the terminal
	for _, n := range t.notes {
		fmt.Fprintln(out, "note:", n)
	}
}

// markdown writes the table for docs/benchmarks.md.
func (t *table) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n### %s\n\n| | median | ratio | lowest | highest | runs |\n|---|---|---|---|---|---|\n", t.heading())
	for _, row := range t.rows() {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %d |\n", row.variant, row.median, row.ratio, row.low, row.high, row.runs)
	}
	for _, n := range t.notes {
		fmt.Fprintf(out, "\n%s%s.\n", strings.ToUpper(n[:1]), n[1:])
	}
}

func (t *table) heading() string {
	if t.unit == seconds || t.unit == "" {
		return t.title
	}
	return t.title + ", " + t.unit
}

// text rounds to three digits or so.
func (t *table) text(figure float64) string {
	if t.unit == seconds {
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

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
)

// expositionType is the content type of the format, without which Prometheus 3 does not
// read it.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// metricKind is how the figures of a metric are to be read.
type metricKind string

const (
	gauge   metricKind = "gauge"   // it rises and falls
	counter metricKind = "counter" // it only rises, until the process ends
	summary metricKind = "summary" // a count and a sum of what was observed
)

// exposition is metrics in Prometheus' text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/). Names, help and labels
// are taken as they are: none of them is from outside, or has what the format escapes.
type exposition struct{ text []byte }

// family begins a metric, whose samples follow.
func (e *exposition) family(name string, kind metricKind, help string) {
	e.text = fmt.Appendf(e.text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample adds a figure, with labels as they are between the braces; empty: it has none.
func (e *exposition) sample(name, labels string, figure float64) {
	e.text = append(e.text, name...)
	if labels != "" {
		e.text = append(append(append(e.text, '{'), labels...), '}')
	}
	e.text = append(strconv.AppendFloat(append(e.text, ' '), figure, 'g', -1, 64), '\n')
}

// metric adds a metric that is one figure.
func (e *exposition) metric(name string, kind metricKind, help string, figure float64) {
	e.family(name, kind, help)
	e.sample(name, "", figure)
}

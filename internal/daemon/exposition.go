// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"strconv"
	"strings"
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
// are taken as they are: labels that come from outside are made by [labels].
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

// labels returns names and values in turn as they stand between the braces of a sample,
// values escaped.
func labels(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i] + `="`)
		_, _ = labelEscaper().WriteString(&b, pairs[i+1]) // a Builder takes all
		b.WriteByte('"')
	}
	return b.String()
}

func labelEscaper() *strings.Replacer {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
}

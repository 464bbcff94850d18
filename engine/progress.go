// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

// Progress says how far a change has come.
type Progress struct {
	// Step is the present step, as Options.Trace gets it. Empty: no change is under way.
	Step string
	// Of Total ports the step has taken Done. A Total of zero: it takes all ports at once.
	Done, Total int
}

// progressEvery is the number of ports between two reports.
const progressEvery = 256

// report reports the progress of a step that takes one port at a time.
func (e *core) report(step string, done, total int) {
	if done%progressEvery == 0 {
		e.opts.Progress(Progress{step, done, total})
	}
}

// traceProgress returns a trace function that calls both.
func traceProgress(trace func(string), progress func(Progress)) func(string) {
	return func(step string) {
		progress(Progress{Step: step})
		trace(step)
	}
}

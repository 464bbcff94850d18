// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

// Progress is how far a change is.
type Progress struct {
	// Step is the step that is being taken, in the words of Options.Trace. Empty:
	// none, for nothing is being changed.
	Step string
	// Done and Total are how many ports the step is through with, and how many it is
	// about. A Total of zero: the step is taken for all of them at once.
	Done, Total int
}

// progressEvery is how many ports a step is through with between two reports.
const progressEvery = 256

// report tells of a step that is taken a port at a time.
func (e *core) report(step string, done, total int) {
	if done%progressEvery == 0 {
		e.opts.Progress(Progress{step, done, total})
	}
}

// traceProgress has every step told to both of them.
func traceProgress(trace func(string), progress func(Progress)) func(string) {
	return func(step string) {
		progress(Progress{Step: step})
		trace(step)
	}
}

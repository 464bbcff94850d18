// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// event is an event of test2json and go test (go doc test2json, go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// report prints results as they come, and remembers what was not run.
type report struct {
	out     io.Writer
	tests   map[testName][]string // the output of tests that have not ended
	leftOut unrun
	skipped unrun
	took    []taken // what took long
}

// taken is how long a test took.
type taken struct {
	name    string
	seconds float64
}

// long is from when on the time that a test takes is printed, in seconds.
const long = 20

// unrun are the tests that were not run as a whole, by package and reason.
type unrun map[[2]string][]string

// testName is one test of one package. An empty name is for output of no test.
type testName struct{ pkg, test string }

func newReport(out io.Writer) *report {
	return &report{out: out, tests: map[testName][]string{}, leftOut: unrun{}, skipped: unrun{}}
}

// maxLine bounds a line of go test.
const maxLine = 16 << 20

// read reads events up to the end of r. Other lines are printed unchanged.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.add(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read results of go test: %w", err)
	}
	return nil
}

func (r *report) add(e event) {
	name := testName{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		r.tests[name] = append(r.tests[name], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.ended(e)
		} else {
			r.testEnded(e)
		}
		delete(r.tests, name)
	}
}

// logged is a line of a test's log.
var logged = regexp.MustCompile(`^ +\S+\.go:\d+: (.*)\n?$`)

// leftOut begins lines of the log that say what a test leaves out: see package labtest.
const leftOut = "left out: "

func (r *report) testEnded(e event) {
	output := r.tests[testName{e.Package, e.Test}]
	add := func(to unrun, reason string) {
		key := [2]string{path.Base(e.Package), reason}
		to[key] = append(to[key], e.Test)
	}
	reason := "it gives no reason"
	for _, line := range output {
		found := logged.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		reason = found[1]
		if what, ok := strings.CutPrefix(reason, leftOut); ok {
			add(r.leftOut, what)
		}
	}
	if e.Elapsed >= long && !strings.Contains(e.Test, "/") {
		r.took = append(r.took, taken{path.Base(e.Package) + " " + e.Test, e.Elapsed})
	}
	switch {
	case e.Action == "skip" && !strings.HasPrefix(reason, leftOut):
		add(r.skipped, reason)
	case e.Action == "fail":
		fmt.Fprint(r.out, strings.Join(output, ""))
	}
}

// ended prints the result of a package. If it failed, output of no test, such as a panic, is
// printed too.
func (r *report) ended(e event) {
	output := r.tests[testName{e.Package, ""}]
	if e.Action != "fail" && len(output) > 0 {
		output = output[len(output)-1:]
	}
	fmt.Fprint(r.out, strings.Join(output, ""))
	for name, output := range r.tests { // of tests that did not end
		if name.pkg == e.Package && name.test != "" {
			fmt.Fprint(r.out, strings.Join(output, ""))
			delete(r.tests, name)
		}
	}
}

// leftOutOf lists the tests of a package, by its last name, that left something out, without
// subtests and in the order of the alphabet.
func (r *report) leftOutOf(pkg string) (names []string) {
	for key, tests := range r.leftOut {
		if key[0] != pkg {
			continue
		}
		for _, test := range tests {
			name, _, _ := strings.Cut(test, "/")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// summary prints which tests took long, the longest first, and what was not run, one line for
// each reason in each package.
func (r *report) summary() {
	if len(r.took) > 0 {
		slices.SortFunc(r.took, func(a, b taken) int { return cmp.Compare(b.seconds, a.seconds) })
		fmt.Fprintf(r.out, "\nOf %d s or more:\n", long)
		for _, t := range r.took {
			fmt.Fprintf(r.out, "    %4.0f s %s\n", t.seconds, t.name)
		}
	}
	r.leftOut.print(r.out, `Left out because it takes long ("make integration" runs all of it):`)
	r.skipped.print(r.out, "Skipped:")
	if len(r.leftOut)+len(r.skipped) == 0 {
		fmt.Fprintln(r.out, "\nNothing was left out.")
	}
}

func (u unrun) print(out io.Writer, title string) {
	if len(u) == 0 {
		return
	}
	var lines []string
	for key, tests := range u {
		lines = append(lines, fmt.Sprintf("    %s: %s (%s)", key[0], key[1], strings.Join(tests, ", ")))
	}
	slices.Sort(lines)
	fmt.Fprintf(out, "\n%s\n%s\n", title, strings.Join(lines, "\n"))
}

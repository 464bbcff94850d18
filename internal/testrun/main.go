// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command testrun runs "go test" for the packages given as arguments, by default all, and
// prints what go test prints without -v. At the end it lists what the tests left out because
// it takes long, and what they skipped because something is missing on this machine. The exit
// status is that of go test.
//
// With -whole PACKAGE, the tests of that package which left something out run once more
// after the others have passed, whole: with NFTNAT_TEST_LONG=1. Half of them run at the same
// time as the other half, for they wait more than they work.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
)

func main() {
	whole := flag.String("whole", "", "run the tests of `PACKAGE` whole that left something out")
	flag.Parse()
	packages := flag.Args()
	if len(packages) == 0 {
		// The longest first, so that the others run at the same time.
		packages = []string{"./integration", "./..."}
	}
	if err := run(packages, *whole); err != nil {
		fmt.Fprintf(os.Stderr, "testrun: %v\n", err)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		os.Exit(1)
	}
}

func run(packages []string, whole string) error {
	r, err := goTest(append([]string{"-timeout=15m"}, packages...), nil)
	if err != nil || whole == "" {
		return err
	}
	tests := r.leftOutOf(path.Base(whole))
	if len(tests) == 0 {
		return nil
	}
	fmt.Printf("\nWhole, in %s: %s\n", whole, strings.Join(tests, " "))
	// By turns, for tests whose names begin alike often take equally long.
	var halves [2][]string
	for i, test := range tests {
		halves[i%2] = append(halves[i%2], test)
	}
	var errs [len(halves)]error
	var wait sync.WaitGroup
	for i, half := range halves {
		if len(half) == 0 {
			continue
		}
		pattern := "^(" + strings.Join(half, "|") + ")$"
		wait.Go(func() {
			_, errs[i] = goTest([]string{"-shuffle=on", "-timeout=20m", "-run", pattern, whole}, []string{"NFTNAT_TEST_LONG=1"})
		})
	}
	wait.Wait()
	return errors.Join(errs[:]...)
}

// goTest runs go test, with more variables in the environment, and prints its results.
func goTest(args, env []string) (*report, error) {
	// No results from the cache: tests also depend on programs that go does not know of.
	// Tests that are parallel wait for daemons, and need no processor of their own.
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1", "-parallel=4"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := newReport(os.Stdout)
	readErr := r.read(out)
	err = errors.Join(cmd.Wait(), readErr)
	r.summary()
	return r, err
}

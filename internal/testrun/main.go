// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command testrun runs "go test" for the packages given as arguments, by default all, and
// prints what go test prints without -v. At the end it lists what the tests left out because
// it takes long, and what they skipped because something is missing on this machine. The exit
// status is that of go test.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

func main() {
	packages := os.Args[1:]
	if len(packages) == 0 {
		// The longest first, so that the others run at the same time.
		packages = []string{"./integration", "./..."}
	}
	status, err := run(packages)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testrun: %v\n", err)
	}
	os.Exit(status)
}

func run(packages []string) (int, error) {
	// No results from the cache: tests also depend on programs that go does not know of.
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1"}, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	r := newReport(os.Stdout)
	readErr := r.read(out)
	err = cmd.Wait()
	r.summary()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode(), readErr
	case err != nil || readErr != nil:
		return 1, errors.Join(err, readErr)
	}
	return 0, nil
}

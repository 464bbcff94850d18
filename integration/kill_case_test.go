// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The kill tests share a plan: a child process changes the table and is killed in the
// middle, the next engine opens the table, and the test compares table, sockets, traffic
// and file with the state before or after the change, whichever the child had reached.
//
//	kill_test.go           mappings, killed before each step of each change
//	kill_endpoints_test.go networks and endpoints, in the same way
//	state_kill_test.go     both table and file, and the file alone
//	random_kill_*_test.go  random operations, killed at a step or at any instant: engines
//	                       (random_kill_child_test.go is the child), and daemons
//	soak_test.go           the same for an hour, with flushes and takeovers
//
// The first three take their changes from here. The random ones take them from
// operation_test.go, and compare with the model in model_test.go.

// killCase is a change that a child is killed in the middle of.
type killCase struct {
	name  string
	steps []string                     // at which the child is killed
	do    func(e *engine.Engine) error // makes the change
}

// The steps of a change, in order. The transaction is committed at "commit": a process
// that is killed before it has done nothing, and one that is killed later has done all
// that the table records.
var (
	stepsUndone = []string{"reserve", "forward", "commit"}
	stepsDone   = []string{"flows", "done"}
	// A change that replaces ranges has these as well, and "prepare" before "commit".
	stepsSettled = []string{"settle", "clean"}
)

// kill has a child make the change, with its state in a file if there is a path, and kill
// itself just before a step.
func (c killCase) kill(t *testing.T, ns *lab.NS, step, path string) {
	t.Helper()
	r := labtest.Run(t, ns, child(t, "kill", ns.Path(), c.name, step, path))
	require.Equal(t, -1, r.Code, "the child was not killed: %s", r.Stderr)
}

// childKill is the child.
func childKill(name, step, path string) error {
	var cases []killCase
	for _, c := range mappingKillCases() {
		cases = append(cases, c.killCase)
	}
	cases = slices.Concat(cases, endpointKillCases(), flowKillCases(), hairpinKillCases())
	i := slices.IndexFunc(cases, func(c killCase) bool { return c.name == name })
	if i < 0 {
		return fmt.Errorf("there is no change %q", name)
	}
	o := engine.Options{Trace: func(s string) {
		if s == step {
			killSelf()
		}
	}}
	err := openStored(os.Getenv(envChildNetNS), path, o, cases[i].do)
	return errors.Join(err, fmt.Errorf("step %q never came", step))
}

// killSelf does not return: nothing is run any more, neither deferred functions nor
// other goroutines.
func killSelf() {
	if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
		panic(err)
	}
	select {}
}

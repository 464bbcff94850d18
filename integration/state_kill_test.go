// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// openKept opens an engine that keeps its state in a file, calls do, and closes it.
func openKept(netns, path string, o engine.Options, do func(e *engine.Engine) error) (err error) {
	file := state.NewFile(path)
	defer func() { err = errors.Join(err, file.Close()) }()
	o.NetNS, o.NoProxies, o.NoOwner, o.Store = netns, true, true, file
	e, err := engine.Open(o)
	if err != nil {
		return err
	}
	return errors.Join(do(e), e.Close())
}

// keptState is what an engine has that opens, with a table or without one.
func keptState(t *testing.T, ns *lab.NS, path string) (s nat.State) {
	t.Helper()
	require.NoError(t, openKept(ns.Path(), path, engine.Options{}, func(e *engine.Engine) (err error) {
		s, err = e.State()
		return err
	}))
	return s
}

// A process that is killed at any step of a change leaves a table and a file that agree
// again when the next engine opens: with the change wholly done where the kernel made it.
// If the table is lost as well, what was acknowledged is there, and the change wholly
// done or wholly undone.
func TestStateKill(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, op := range labtest.Some(t, "operations killed with a state file", 5, tenantOperations()) {
		steps := slices.Insert(slices.Clone(op.steps), slices.Index(op.steps, "commit")+1, "save")
		path := stateFile(t)
		var before, after nat.State
		require.NoError(t, openKept(top.Host.Path(), path, engine.Options{}, func(e *engine.Engine) (err error) {
			before = tenants(t, e, top)
			if err = op.do(e); err != nil {
				return err
			}
			after, err = e.State()
			return err
		}))
		for _, step := range steps {
			for _, lost := range []bool{false, true} {
				name := op.name + " killed at " + step
				if lost {
					name += ", with the table"
				}
				t.Run(name, func(t *testing.T) {
					path := stateFile(t)
					require.NoError(t, open(t, top.Host, engine.Options{}).Purge())
					require.NoError(t, openKept(top.Host.Path(), path, engine.Options{}, func(e *engine.Engine) error {
						require.Equal(t, before, tenants(t, e, top))
						return nil
					}))
					r := labtest.Run(t, top.Host, child(t, "kill-kept", top.Host.Path(), op.name, step, path))
					require.Equal(t, -1, r.Code, "the child was not killed: %s", r.Stderr)
					inTable, inFile := before, before
					if step == "save" || slices.Contains(stepsDone, step) {
						inTable = after
					}
					if slices.Contains(stepsDone, step) {
						inFile = after
					}
					if !lost {
						require.Equal(t, inTable, keptState(t, top.Host, path))
						inFile = inTable // which has been written by now
					}
					nft(t, top.Host, "delete", "table", "inet", "nftnat")
					require.Equal(t, inFile, keptState(t, top.Host, path))
				})
			}
		}
		require.NoError(t, open(t, top.Host, engine.Options{}).Purge())
	}
}

// childKillKept makes a change of the tenants and kills itself just before a step of it.
func childKillKept(name, step, path string) error {
	ops := tenantOperations()
	i := slices.IndexFunc(ops, func(op tenantOperation) bool { return op.name == name })
	if i < 0 {
		return errors.New("there is no operation " + name)
	}
	trace := func(s string) {
		if s == step {
			killSelf()
		}
	}
	err := openKept(os.Getenv(envChildNetNS), path, engine.Options{Trace: trace}, ops[i].do)
	return errors.Join(err, errors.New("step "+step+" never came"))
}

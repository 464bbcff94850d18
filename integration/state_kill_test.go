// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// openStored opens an engine with its state in a file, calls do, and closes it. Without a
// path there is no file.
func openStored(netns, path string, o engine.Options, do func(e *engine.Engine) error) (err error) {
	o.NetNS, o.NoProxies, o.NoOwner = netns, true, true
	if path != "" {
		file := state.NewFile(path)
		defer func() { err = errors.Join(err, file.Close()) }()
		o.Store = file
	}
	e, err := engine.Open(context.Background(), o)
	if err != nil {
		return err
	}
	return errors.Join(do(e), e.Close())
}

// storedState opens an engine with the file, with or without a table, and returns its
// state.
func storedState(t *testing.T, ns *lab.NS, path string) (s nat.State) {
	t.Helper()
	require.NoError(t, openStored(ns.Path(), path, engine.Options{}, func(e *engine.Engine) (err error) {
		s, err = e.State(t.Context())
		return err
	}))
	return s
}

// If a process is killed at any step of a change, table and file agree when the next engine
// has opened: the change is done if the kernel had made it. If the table is lost as well,
// what was acknowledged is restored, and the change is wholly done or undone.
func TestStateKill(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, c := range labtest.Some(t, "changes killed with a state file", 5, endpointKillCases()) {
		steps := slices.Insert(slices.Clone(c.steps), slices.Index(c.steps, "commit")+1, "save")
		path := stateFile(t)
		var before, after nat.State
		require.NoError(t, openStored(top.Host.Path(), path, engine.Options{}, func(e *engine.Engine) (err error) {
			before = declareEndpoints(t, e, top)
			if err = c.do(e); err != nil {
				return err
			}
			after, err = e.State(t.Context())
			return err
		}))
		for _, step := range steps {
			for _, lost := range []bool{false, true} {
				name := c.name + " killed at " + step
				if lost {
					name += ", with the table"
				}
				t.Run(name, func(t *testing.T) {
					path := stateFile(t)
					require.NoError(t, open(t, top.Host, engine.Options{}).Purge(t.Context()))
					require.NoError(t, openStored(top.Host.Path(), path, engine.Options{}, func(e *engine.Engine) error {
						require.Equal(t, before, declareEndpoints(t, e, top))
						return nil
					}))
					c.kill(t, top.Host, step, path)
					inTable, inFile := before, before
					if step == "save" || slices.Contains(stepsDone, step) {
						inTable = after
					}
					if slices.Contains(stepsDone, step) {
						inFile = after
					}
					if !lost {
						require.Equal(t, inTable, storedState(t, top.Host, path))
						inFile = inTable // which has been written by now
					}
					nft(t, top.Host, "delete", "table", "inet", "nftnat")
					require.Equal(t, inFile, storedState(t, top.Host, path))
				})
			}
		}
		require.NoError(t, open(t, top.Host, engine.Options{}).Purge(t.Context()))
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// Which process serves is asked without the status, which takes longer the more is published, unless the server is older.
func TestDaemon(t *testing.T) {
	want := Daemon{PID: 7, Version: "v1", NetNS: 4026531840, Table: "mine"}
	asked := 0
	status := func(context.Context) (Status, error) {
		asked++
		return Status{PID: want.PID, Version: want.Version, NetNS: want.NetNS, Table: TableStatus{Name: want.Table}}, nil
	}
	for i, self := range []func() Daemon{func() Daemon { return want }, nil} {
		s := start(t, Options{Engine: newFake(), Daemon: self, Status: status}, defaultLimits())
		got, err := s.Daemon(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, i, asked)
		require.NoError(t, s.stop())
	}
}

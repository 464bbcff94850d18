// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
)

// A command finds its daemon without the status, which takes longer the more is published.
func TestLocateAsksForNoStatus(t *testing.T) {
	g := &global{socket: filepath.Join(t.TempDir(), "s"), table: engine.DefaultTable, tableGiven: true, stderr: io.Discard}
	inode, err := g.namespaceInode()
	require.NoError(t, err)
	l, err := api.Listen(g.socket, -1)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	server := api.NewServer(api.Options{
		Daemon: func() api.Daemon { return api.Daemon{PID: 1, Version: "v1", NetNS: inode, Table: engine.DefaultTable} },
		Status: func(context.Context) (api.Status, error) {
			t.Error("the status was asked for")
			return api.Status{}, errors.New("it takes long")
		},
	})
	go func() { served <- server.Serve(ctx, l) }()
	client, free, err := g.locate(ctx)
	require.NoError(t, err)
	require.Equal(t, g.socket, client.Path())
	require.Equal(t, g.socket, free)
	g.table = "other"
	_, _, err = g.locate(ctx)
	require.ErrorContains(t, err, "has the table nftnat, not other")
	cancel()
	require.NoError(t, <-served)
}

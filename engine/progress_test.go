// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// Each step is reported, with its progress if it is taken port by port, and the end, also
// after an error.
func TestProgress(t *testing.T) {
	b := newTestbed()
	var told []Progress
	e := b.openWith(t, Options{NoSysctl: true, Progress: func(p Progress) { told = append(told, p) }})
	holdPorts(t, e)
	require.Equal(t, []Progress{{Step: "adopt"}, {}}, told)
	told = nil
	publish(t, e, "127.0.0.1:21000-21599->172.30.0.2:80-679")
	require.Equal(t, []Progress{
		{Step: "reserve"},
		{Step: "bind"}, {"bind", 0, 600}, {"bind", 256, 600}, {"bind", 512, 600},
		{Step: "commit"}, {Step: "flows"},
		{Step: "open"}, {"open", 0, 600}, {"open", 256, 600}, {"open", 512, 600},
		{Step: "done"}, {},
	}, told)

	told = nil
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "127.0.0.1:21000-21599->172.30.0.2:80-679")}})
	require.NoError(t, err)
	require.Equal(t, []Progress{{Step: "bind"}, {Step: "commit"}, {Step: "flows"}, {Step: "open"}, {Step: "done"}, {}}, told)

	other, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	told = nil
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, other.Addr().String()+"->172.30.0.2:80"))
	require.ErrorIs(t, err, nat.ErrConflict)
	require.Equal(t, []Progress{{Step: "reserve"}, {Step: "bind"}, {"bind", 0, 1}, {}}, told)
}

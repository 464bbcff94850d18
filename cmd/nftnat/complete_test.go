// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// completed is what a shell is offered after the words.
func completed(t *testing.T, words ...string) []string {
	t.Helper()
	var out strings.Builder
	require.Zero(t, run(append([]string{"__complete"}, words...), strings.NewReader(""), &out, io.Discard))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.True(t, strings.HasPrefix(lines[len(lines)-1], ":"))
	return lines[:len(lines)-1]
}

// Without a daemon there is what is always there, and nothing is started or waited for.
func TestCompletionWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(envSocket, filepath.Join(dir, "s"))
	require.Equal(t, []string{"tcp", "udp"}, completed(t, "add", ""))
	require.Equal(t, []string{"tcp", "udp"}, completed(t, "ls", ""))
	require.Equal(t, []string{"tcp", "udp"}, completed(t, "rm", ""))
	require.Equal(t, []string{"tcp", "udp"}, completed(t, "explain", ""))
	require.Equal(t, []string{"127.0.0.1", "::1"}, completed(t, "explain", "tcp", "80", "--from", ""))
	for _, words := range [][]string{{"port", ""}, {"detach", ""}, {"inspect", ""}, {"rm", "--name", ""}, {"rm", "tcp", ""}, {"add", "tcp", ""}, {"explain", "tcp", ""}} {
		require.Empty(t, completed(t, words...), words)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "nothing was started")
}

// A daemon that takes connections and says nothing does not hold a shell up.
func TestCompletionIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	t.Setenv(envSocket, path)
	// It ends at all: the listener accepts in the kernel, and nobody ever answers.
	require.Empty(t, completed(t, "rm", "--name", ""))
}

func TestMappingWords(t *testing.T) {
	m, err := nat.ParseMappingText("53->172.17.0.2:53/udp")
	require.NoError(t, err)
	m.Name = "dns"
	again := m
	again.Frontend = netip.MustParseAddrPort("192.0.2.1:53")
	s := nat.State{Mappings: []nat.Mapping{m, again}}
	require.Equal(t, []string{"dns"}, mappingNames(s))
	require.Equal(t, s.Mappings, allMappings(s))
}

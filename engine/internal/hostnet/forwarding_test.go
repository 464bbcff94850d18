// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"os"
	"path"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests of package engine show what a publish turns on; here are the answers of a
// kernel, and the state of each kind of host.

// SystemInterfaces is asked of the namespace that the tests have to themselves.
func TestSystemInterfaces(t *testing.T) {
	is, err := SystemInterfaces()
	require.NoError(t, err)
	require.Contains(t, is, Interface{Name: "lo", Loopback: true, Global6: false})
}

// A setting is written once and restored to its old value.
func TestForwarding(t *testing.T) {
	root := t.TempDir()
	write := func(name, value string) {
		file := path.Join(root, name)
		require.NoError(t, os.MkdirAll(path.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(value+"\n"), 0o600))
	}
	write(forwarding4, "0")
	write(forwarding6, "2")
	f := &Forwarding{
		Sysctls:    Sysctls{Namespace: &Namespace{}, Root: root},
		Interfaces: func() ([]Interface, error) { return []Interface{{Name: "eth0", Global6: true}}, nil },
	}
	state := func() [3]bool {
		four, all6, some6, err := f.State()
		require.NoError(t, err)
		return [3]bool{four, all6, some6}
	}
	require.Equal(t, [3]bool{}, state())
	changed, atRisk, err := f.TurnOn(true, true, nil)
	require.NoError(t, err)
	require.Empty(t, atRisk, "no interface accepts router advertisements")
	require.Equal(t, []Setting{{forwarding4, "0", "1"}, {forwarding6, "2", "1"}}, changed)
	require.Equal(t, [3]bool{true, true, true}, state())
	again, _, err := f.TurnOn(true, true, nil)
	require.NoError(t, err)
	require.Empty(t, again)
	require.NoError(t, f.Restore(changed))
	require.Equal(t, [3]bool{}, state())

	can, err := f.PerInterface()
	require.NoError(t, err)
	require.False(t, can)
	write("net/ipv6/conf/all/force_forwarding", "0")
	write("net/ipv6/conf/eth0/force_forwarding", "0")
	can, err = f.PerInterface()
	require.NoError(t, err)
	require.True(t, can)
	changed, _, err = f.TurnOn(false, true, nil)
	require.NoError(t, err)
	require.Equal(t, []Setting{{"net/ipv6/conf/eth0/force_forwarding", "0", "1"}}, changed)
	require.Equal(t, [3]bool{false, false, true}, state())
}

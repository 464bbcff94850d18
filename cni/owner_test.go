// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// The names are a contract: the ports of containers that run must be found again by later versions.
func TestOwnerName(t *testing.T) {
	name := OwnerName("containerd-net", "3f2a", "eth0")
	require.Regexp(t, "^cni:[a-z2-7]{34}$", name)
	require.True(t, isName(name))
	require.True(t, strings.HasPrefix(name, networkPrefix("containerd-net")))
	require.NoError(t, nat.ValidateName(name))
	for _, other := range []string{
		OwnerName("containerd-net2", "3f2a", "eth0"), OwnerName("containerd-net", "3f2ae", "th0"), OwnerName("containerd-net", "3f2a", "eth1"),
	} {
		require.NotEqual(t, name, other)
	}
	for _, other := range []string{"", "web", "cni:", "cni:" + strings.Repeat("a", 33), "cni:" + strings.Repeat("/", 34), "cni:../" + strings.Repeat("a", 31)} {
		require.False(t, isName(other), other)
	}
}

// An owner is gone if its namespace's path leads nowhere or elsewhere.
func TestOwnerGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ns")
	o := newOwner("net", "id", "eth0", path)
	require.False(t, o.gone(), "it was not there at first: nothing is known")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	o = newOwner("net", "id", "eth0", path)
	require.False(t, o.gone())
	require.NoError(t, os.Rename(path, path+"2"))
	require.True(t, o.gone())
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.True(t, o.gone())
	o.NetNS = filepath.Join(path, "below a file")
	require.True(t, o.gone())
}

// Records come and go with others at the same time, and the directory with the last one.
func TestRecords(t *testing.T) {
	r := recordsOf(filepath.Join(t.TempDir(), "nftnat.sock"))
	require.Equal(t, "nftnat.cni", filepath.Base(r.dir))
	var all sync.WaitGroup
	for id := range strings.SplitSeq("abcdefghijklmnop", "") {
		all.Go(func() {
			name := OwnerName("net", id, "eth0")
			for range 50 {
				if err := r.write(name, owner{ContainerID: id}); err != nil {
					t.Error(err)
				}
				if o, ok := r.read(name); !ok || o.ContainerID != id {
					t.Errorf("%s has %v, %v", id, o, ok)
				}
				if err := r.remove(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	require.NoDirExists(t, r.dir)

	name := OwnerName("net", "id", "eth0")
	require.NoError(t, r.write(name, owner{ContainerID: "id"}))
	require.NoError(t, os.WriteFile(r.path(name), []byte("{"), 0o600))
	_, ok := r.read(name)
	require.False(t, ok)
	require.True(t, r.exists(name))
	require.NoError(t, os.Rename(r.path(name), r.part(name))) // as a killed process leaves it
	names, err := r.names(networkPrefix("net"))
	require.NoError(t, err)
	require.Equal(t, []string{name}, names)
	require.NoError(t, r.removeAll(func(other string) bool { return other == name }))
	require.NoDirExists(t, r.dir)
	require.NoError(t, r.remove(name))
}

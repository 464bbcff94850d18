// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// What others remove is there again as it was saved last; what they replace is left.
func TestRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.yaml")
	f := NewFile(path)
	restored, err := f.Restore()
	require.NoError(t, err)
	require.False(t, restored, "it was not loaded")
	_, _, err = f.Load()
	require.NoError(t, err)
	restored, err = f.Restore()
	require.NoError(t, err)
	require.False(t, restored, "nothing was saved")
	require.NoFileExists(t, path)

	m, err := nat.ParseMappingText("8080->172.30.0.2:80")
	require.NoError(t, err)
	require.NoError(t, f.Save(nat.StoredState{State: nat.State{Mappings: []nat.Mapping{m}}}))
	saved, err := os.ReadFile(path)
	require.NoError(t, err)
	restored, err = f.Restore()
	require.NoError(t, err)
	require.False(t, restored)

	require.NoError(t, os.Remove(path))
	restored, err = f.Restore()
	require.NoError(t, err)
	require.True(t, restored)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(saved), string(text))

	require.NoError(t, os.WriteFile(path, []byte("mappings: []\n"), 0o600))
	restored, err = f.Restore()
	require.NoError(t, err)
	require.False(t, restored)

	// The lock holds again against others,
	require.NoError(t, os.Remove(path+lockSuffix))
	restored, err = f.Restore()
	require.NoError(t, err)
	require.True(t, restored)
	_, _, err = NewFile(path).Load()
	require.ErrorIs(t, err, nat.ErrConflict)
	// unless one was faster.
	require.NoError(t, os.Remove(path+lockSuffix))
	other := NewFile(path)
	_, _, err = other.Load()
	require.NoError(t, err)
	_, err = f.Restore()
	var taken *nat.TakenError
	require.ErrorAs(t, err, &taken)
	require.NoError(t, other.Close())
	restored, err = f.Restore()
	require.NoError(t, err)
	require.True(t, restored)

	require.NoError(t, os.RemoveAll(filepath.Dir(path)))
	_, err = f.Restore()
	require.Error(t, err)
	require.NoError(t, f.Close())
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nft"
)

// olderKernel counts no elements, as Linux 6.12 does not.
type olderKernel struct{ *nfttest.Fake }

func (olderKernel) CountsElements(nft.Table) (bool, error) { return false, nil }

// features are what an engine says that its kernel lacks.
func features(t *testing.T, e *Engine) []string {
	t.Helper()
	s, err := e.Status(t.Context())
	require.NoError(t, err)
	var names []string
	for _, l := range s.MissingFeatures {
		require.NotEmpty(t, l.Fallback)
		names = append(names, l.Name)
	}
	return names
}

// What a kernel lacks is found by trying, and not before there is something to try.
func TestMissingFeatures(t *testing.T) {
	for name, test := range map[string]struct {
		force, older bool
		early, late  []string
	}{
		"nothing":       {force: true},
		"forwarding":    {early: []string{"force_forwarding"}, late: []string{"force_forwarding"}},
		"counting":      {force: true, older: true, late: []string{"NFTA_SET_COUNT"}},
		"all there are": {older: true, early: []string{"force_forwarding"}, late: []string{"force_forwarding", "NFTA_SET_COUNT"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed()
			b.kernelWith(t, test.force)
			b.older = test.older
			e := b.openWith(t, Options{})
			require.Equal(t, test.early, features(t, e))
			publish(t, e, "80->172.30.0.2:80")
			require.Equal(t, test.late, features(t, e))
			// Somebody flushes the table: nothing is known again, and nothing wrong.
			if b.kernel.Flush(); !test.older {
				require.Equal(t, test.early, features(t, e))
			}
		})
	}
}

// What is not used is not missed: by an engine that leaves forwarding alone, and by a
// host that has no IPv6.
func TestMissingFeaturesUnused(t *testing.T) {
	b := newTestbed()
	b.kernelWith(t, false)
	require.Empty(t, features(t, b.openWith(t, Options{NoSysctl: true})))
	b = newTestbed()
	b.writeSysctl(t, forwarding4, "0")
	require.Empty(t, features(t, b.openWith(t, Options{})))
}

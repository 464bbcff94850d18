// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	nftables "github.com/nftnat/nftnat/nft"
)

// generation is the number of transactions that the namespace has seen.
func generation(t *testing.T, ns *lab.NS) uint32 {
	t.Helper()
	var n uint32
	err := ns.Do(func() error {
		c, err := nftables.Dial(nil)
		if err != nil {
			return err
		}
		if n, err = c.Generation(); err != nil {
			return err
		}
		return c.Close()
	})
	require.NoError(t, err)
	return n
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseQueues(t *testing.T) {
	q, err := parseQueues("    7  31621     0 2 65531     0     0        0  1\n 4242 31622     0 2 65531     0     0        0  1\n")
	require.NoError(t, err)
	require.Equal(t, map[uint16]bool{7: true, 4242: true}, q)
	q, err = parseQueues("")
	require.NoError(t, err)
	require.Empty(t, q)
	_, err = parseQueues("odd\n")
	require.Error(t, err)
}

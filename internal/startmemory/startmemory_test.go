// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package startmemory

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a start took is given back, and the program goes on.
func TestMemory(t *testing.T) {
	m := Find()
	require.NotEmpty(t, m.code)
	ended, end := context.WithCancel(t.Context())
	end()
	m.Release(ended)
	m.GiveBack()
	require.NotEmpty(t, Find().code)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// foreignRuleset has tables like those of Docker, firewalld and kube-proxy, and some whose
// names are all those of nftnat's table.
func foreignRuleset(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "foreign.nft"))
	require.NoError(t, err)
	return string(text)
}

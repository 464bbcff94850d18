// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// exportOf is what export prints of lists.
func exportOf(lists string) string {
	return "# nftnat, complete with \"...\" as its last line\nversion: 1\n" + lists + "...\n"
}

// emptyFile is the path of a file by which apply unpublishes everything.
func emptyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "empty.yaml")
	require.NoError(t, os.WriteFile(path, []byte("mappings: []\n"), 0o644))
	return path
}

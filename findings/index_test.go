// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package findings has scripts that show surprising behaviour of other software; see
// README.md.
package findings

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the index in README.md anew")

const (
	// maxLines bounds the length of a script, so that it can be read at once.
	maxLines = 80
	heading  = "## Index\n\n"
)

var fields = regexp.MustCompile(`(?m)^# Software: (.+)\n# Expected: (.+)\n# Happens: (.+)\n#\n# Seen: .+`)

// The index in README.md is what the scripts say of themselves.
func TestIndex(t *testing.T) {
	paths, err := filepath.Glob("*.sh")
	require.NoError(t, err)
	var table strings.Builder
	table.WriteString("| script | software | expected | what happens |\n|---|---|---|---|\n")
	for _, path := range paths {
		if path == "lib.sh" {
			continue
		}
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), path)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Less(t, strings.Count(string(content), "\n"), maxLines, path)
		match := fields.FindStringSubmatch(string(content))
		require.NotNil(t, match, "%s does not begin with Software, Expected, Happens and Seen", path)
		cells := append([]string{"[" + strings.TrimSuffix(path, ".sh") + "](" + path + ")"}, match[1:]...)
		table.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	page, err := os.ReadFile("README.md")
	require.NoError(t, err)
	text, index, found := strings.Cut(string(page), heading)
	require.True(t, found)
	if *update {
		require.NoError(t, os.WriteFile("README.md", []byte(text+heading+table.String()), 0o644))
		return
	}
	require.Equal(t, table.String(), index, "go test ./findings -update writes it anew")
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// decisionHead is what a decision begins with.
var decisionHead = regexp.MustCompile(`^# \d+\. (.+)\n\nStatus: (.+?), (\d{4}-\d{2}-\d{2})(; amended)?\.( .+)?\n\n`)

// The table in docs/adr/README.md agrees with the decisions.
func TestDecisions(t *testing.T) {
	const heading = "| | decision | status | date |\n|---|---|---|---|\n"
	page := filepath.Join("..", "docs", "adr", "README.md")
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(page), "[0-9]*.md"))
	require.NoError(t, err)
	var table strings.Builder
	for _, path := range paths {
		name := filepath.Base(path)
		head := decisionHead.FindStringSubmatch(textOf(t, path))
		require.NotNil(t, head, "%s must begin with its title, and then a line such as \"Status: accepted, 2026-11-29.\"", name)
		fmt.Fprintf(&table, "| [%s](%s) | %s | %s | %s |\n", name[:4], name, head[1], head[2]+strings.Replace(head[4], ";", ",", 1), head[3])
	}
	text, index, found := strings.Cut(textOf(t, page), heading)
	require.True(t, found)
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(text+heading+table.String()), 0o644))
		return
	}
	require.Equal(t, table.String(), index, "go test ./integration -run TestDecisions -update writes it anew")
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/nftnat/nftnat/"

// The table of packages in docs/design.md has each package, and what it imports.
func TestDocsPackages(t *testing.T) {
	const page, heading = "../docs/design.md", "| package | holds | imports besides the standard library |\n|---|---|---|\n"
	before, rest, found := strings.Cut(textOf(t, page), heading)
	require.True(t, found)
	rows, after, found := strings.Cut(rest, "\n\n")
	require.True(t, found)
	imports := packageImports(t)
	var want strings.Builder
	for line := range strings.Lines(rows + "\n") {
		cells := strings.Split(line, "|")
		require.Len(t, cells, 5, line)
		name := strings.Trim(cells[1], " `")
		require.Contains(t, imports, name, "there is no such package")
		fmt.Fprintf(&want, "|%s|%s| %s |\n", cells[1], cells[2], imports[name])
		delete(imports, name)
	}
	require.Empty(t, imports, "packages without a row")
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(before+heading+want.String()+"\n"+after), 0o644))
		return
	}
	require.Equal(t, want.String(), rows+"\n", "go test ./integration -run TestDocsPackages -update writes the last column")
}

// packageImports returns what each package of this module imports, tests excluded.
func packageImports(t *testing.T) map[string]string {
	t.Helper()
	imports := map[string]map[string]bool{}
	require.NoError(t, filepath.WalkDir("..", func(file string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "..":
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			if err == nil || entry.Name()[0] == '.' || entry.Name() == "testdata" {
				return fs.SkipDir
			}
		case strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go"):
			name := filepath.ToSlash(filepath.Dir(file))[len("../"):]
			if imports[name] == nil {
				imports[name] = map[string]bool{}
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			require.NoError(t, err)
			for _, spec := range parsed.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				imports[name][imported] = true
			}
		}
		return nil
	}))
	texts := map[string]string{}
	for name, all := range imports {
		texts[name] = importText(all)
	}
	return texts
}

// importText lists packages of this module by their last elements, and then the others by
// repository.
func importText(imports map[string]bool) string {
	var own, others []string
	for imported := range imports {
		host, repository, _ := strings.Cut(imported, "/")
		switch parts := strings.Split(repository, "/"); {
		case strings.HasPrefix(imported, modulePath):
			own = append(own, "`"+path.Base(imported)+"`")
		case strings.Contains(host, "."):
			others = append(others, strings.Join(parts[:2], "/"))
		}
	}
	slices.Sort(own)
	slices.Sort(others)
	all := append(slices.Compact(own), slices.Compact(others)...)
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package buildinfo

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const semver = `[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.]+)?`

// The first version in the changelog is this one, with the day of the release once it is
// released. Before it there may be a heading for changes that belong to no version yet.
func TestChangelog(t *testing.T) {
	text, err := os.ReadFile("../../CHANGELOG.md")
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^## (` + semver + `)( \([0-9]{4}-[0-9]{2}-[0-9]{2}\))?$`).FindSubmatch(text)
	require.NotNil(t, found, "CHANGELOG.md has no heading of a version")
	first := regexp.MustCompile(`(?m)^## .*$`).Find(text)
	require.Contains(t, []string{string(found[0]), "## Unreleased"}, string(first), "the first heading is not that of a version")
	require.Equal(t, Version, string(found[1]))
}

// What the Makefile prints, by which packages are named and releases are tagged.
func TestMakefile(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("no make")
	}
	out, err := exec.Command("make", "-s", "-C", "../..", "version").Output()
	require.NoError(t, err)
	require.Equal(t, Version+"\n", string(out))
}

func TestString(t *testing.T) {
	i := Info{Version: "1.2.3", Go: "go1.25.4", OS: "linux", Arch: "amd64"}
	for commit, want := range map[string]string{
		"": "1.2.3 go1.25.4 linux/amd64",
		"0123456789abcdef0123456789abcdef01234567":       "1.2.3 (0123456789ab) go1.25.4 linux/amd64",
		"0123456789abcdef0123456789abcdef01234567-dirty": "1.2.3 (0123456789ab-dirty) go1.25.4 linux/amd64",
		"ab-dirty": "1.2.3 (ab-dirty) go1.25.4 linux/amd64",
	} {
		i.Commit = commit
		assert.Equal(t, want, i.String())
	}
	i = Read()
	require.Equal(t, Version, i.Version)
	require.Equal(t, runtime.Version(), i.Go)
	require.Equal(t, runtime.GOARCH, i.Arch)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// helpOption is an option as help lists it.
var helpOption = regexp.MustCompile(`(?m)^ +(?:(-\w), +)?(--[a-z-]+)`)

// Every command and every option is in docs/commands.md, or in docs/daemon.md for those of
// the daemon.
func TestDocsOptions(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	help := func(args ...string) string {
		r := labtest.Run(t, ns, bare(t, append(args, "--help")...))
		require.Zero(t, r.Code, r.Stderr)
		return r.Stdout
	}
	pages := textOf(t, "../docs/commands.md") + textOf(t, "../docs/daemon.md")
	for _, command := range commandNames(t, ns) {
		name := "nftnat " + strings.Join(command, " ")
		if !strings.Contains(pages, "`"+name) {
			t.Errorf("no page describes %s", name)
		}
		// Options below "Global Flags" are those of every command.
		for _, option := range helpOption.FindAllStringSubmatch(help(command...), -1) {
			short, long := option[1], option[2]
			described := regexp.MustCompile(long+`\b`).MatchString(pages) || short != "" && strings.Contains(pages, short+" ")
			if !described && long != "--help" {
				t.Errorf("no page describes %s of %s", long, name)
			}
		}
	}
}

// commandNames returns the commands that completion offers, subcommands included.
func commandNames(t *testing.T, ns *lab.NS, above ...string) [][]string {
	t.Helper()
	r := labtest.Run(t, ns, bare(t, append([]string{"__complete"}, append(above, "")...)...))
	require.Zero(t, r.Code, r.Stderr)
	var found [][]string
	for line := range strings.Lines(r.Stdout) {
		name, _, isCommand := strings.Cut(line, "\t")
		if !isCommand || name == "help" {
			continue
		}
		command := append(slices.Clone(above), name)
		if name == "network" || name == "docker" || name == "cni" {
			found = append(found, commandNames(t, ns, command...)...)
			continue
		}
		found = append(found, command)
	}
	require.NotEmpty(t, found)
	return found
}

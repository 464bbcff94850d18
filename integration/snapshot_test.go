// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// snapshot is everything in a namespace that nftnat could change, to compare before and
// after.
type snapshot struct {
	ruleset string            // as nft lists it, with handles: an object that was recreated has another one
	sockets string            // TCP and UDP sockets that listen or are bound
	sysctls map[string]string // by their path below /proc/sys/net
}

func takeSnapshot(t *testing.T, ns *lab.NS) snapshot {
	t.Helper()
	return snapshot{ruleset: ruleset(t, ns), sockets: sockets(t, ns), sysctls: sysctls(t, ns)}
}

// unchanged fails the test if the namespace is not as it was.
func (w snapshot) unchanged(t *testing.T, ns *lab.NS) {
	t.Helper()
	now := takeSnapshot(t, ns)
	require.Equal(t, w.ruleset, now.ruleset)
	require.Equal(t, w.sockets, now.sockets)
	require.Equal(t, w.sysctls, now.sysctls)
}

// nft runs nft(8) inside ns and returns what it prints, in the spelling of one version and
// without the owner of the table.
func nft(t *testing.T, ns *lab.NS, args ...string) string {
	t.Helper()
	return labtest.SpellNFT(withoutOwner(labtest.Exec(t, ns, "nft", args...)))
}

// withoutOwner removes the owner of the table from a listing.
func withoutOwner(listing string) string {
	listing = regexp.MustCompile(`(?m)(^table .*?)( #)? progname .*$`).ReplaceAllString(listing, "$1")
	// Versions that do not know "persist" print nothing for it.
	listing = regexp.MustCompile(`(?m)^\tflags( (owner|persist|owner,persist))?[ ]?\n`).ReplaceAllString(listing, "")
	return strings.Replace(listing, "\n\n\tmap tcp4 {", "\n\tmap tcp4 {", 1)
}

// ruleset lists all tables, with the handles of their objects.
func ruleset(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return nft(t, ns, "-a", "list", "ruleset")
}

// load runs a script of nft(8).
func load(t *testing.T, ns *lab.NS, script string) {
	t.Helper()
	labtest.ExecInput(t, ns, script, "nft", "-f", "-")
}

func sockets(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return labtest.Exec(t, ns, "ss", "--no-header", "--numeric", "--tcp", "--udp", "--listening", "--extended")
}

// sysctls reads all of /proc/sys/net, as ns sees it.
func sysctls(t *testing.T, ns *lab.NS) map[string]string {
	t.Helper()
	const root = "/proc/sys/net"
	found := map[string]string{}
	err := ns.Do(func() error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			key := strings.TrimPrefix(path, root+"/")
			if key == "netfilter/nf_conntrack_count" { // a count, not a setting
				return nil
			}
			value, err := os.ReadFile(path)
			if err != nil { // write-only, or not set
				value = nil
			}
			found[key] = strings.TrimSpace(string(value))
			return nil
		})
	})
	require.NoError(t, err)
	require.Contains(t, found, "ipv4/ip_forward")
	return found
}

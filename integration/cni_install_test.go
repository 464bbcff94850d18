// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// "cni install" and "cni uninstall" edit a list in place, and keep what it is.
func TestCNIInstall(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	dir := t.TempDir()
	list, link, bin := filepath.Join(dir, "10-net.conflist"), filepath.Join(dir, "link.conflist"), filepath.Join(dir, "bin")
	const before = "{\n  \"name\": \"net\", \"x\": 1,\n  \"plugins\": [{\"type\": \"bridge\"},\n    {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}, \"snat\": true}]\n}\n"
	require.NoError(t, os.WriteFile(list, []byte(before), 0o640))
	require.NoError(t, os.Chown(list, 0, 0))
	require.NoError(t, os.Symlink(list, link))
	require.NoError(t, os.Mkdir(bin, 0o755))
	program, err := program()
	require.NoError(t, err)
	run := func(verb string, args ...string) labtest.Result {
		return labtest.Run(t, ns, bare(t, append([]string{"cni", verb, "--conflist", link, "--bin-dir", bin}, args...)...))
	}
	for i, want := range []string{filepath.Join(bin, "nftnat-cni") + " leads to " + program + "\n" + link + " has nftnat-cni\n", ""} {
		r := run("install")
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, want, r.Stdout, i)
		require.Zero(t, strings.Compare(textOf(t, list), strings.Replace(before, `"portmap"`, `"nftnat-cni", "replaces": "portmap"`, 1)))
	}
	r := run("install", "--hold", "shared", "--socket", "/x")
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, textOf(t, list), `"type": "nftnat-cni", "hold": "shared", "socket": "/x", "replaces"`)
	info, err := os.Lstat(list)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	info, err = os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink)
	// The link is the plugin.
	version := bare(t)
	version.Path, version.Args, version.Env = filepath.Join(bin, "nftnat-cni"), []string{filepath.Join(bin, "nftnat-cni")}, []string{"CNI_COMMAND=VERSION", "CNI_PATH=x"}
	require.Contains(t, labtest.Run(t, ns, version).Stdout, `"cniVersion":"1.1.0"`)

	require.Equal(t, 2, run("install", "--hold", "tight").Code)
	for i, want := range []string{link + " does not have nftnat-cni\nremoved " + filepath.Join(bin, "nftnat-cni") + "\n", ""} {
		r = run("uninstall")
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, want, r.Stdout, i)
		require.Zero(t, strings.Compare(textOf(t, list), before))
	}
	require.NoError(t, os.WriteFile(list, []byte("{"), 0o600))
	r = run("install")
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, "nftnat: edit "+list+": it is not JSON")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 3, "no temporary file stays")
}

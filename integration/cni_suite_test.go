// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/cni"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// cniPrograms builds the plugins and tools of others, in the versions of cni/go.mod, and portmap's own tests. The
// directory has the plugins, cnitool and portmap.test.
var cniPrograms = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(labtest.Scratch(), "cni")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{
			"build", "-o", dir, "github.com/containernetworking/cni/cnitool", "github.com/containernetworking/plugins/plugins/main/ptp",
			"github.com/containernetworking/plugins/plugins/main/bridge", "github.com/containernetworking/plugins/plugins/ipam/host-local",
			"github.com/containernetworking/plugins/plugins/meta/portmap",
		},
		{"test", "-c", "-o", filepath.Join(dir, "portmap.test"), "github.com/containernetworking/plugins/plugins/meta/portmap"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = "cni", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return dir, nil
})

// isolated is a command with files of its own where plugins keep theirs.
func isolated(t *testing.T, line string) *exec.Cmd {
	t.Helper()
	return exec.Command(labtest.Tool(t, "unshare"), "--mount", "sh", "-euc", "mount -t tmpfs tmpfs /var/lib; exec "+line)
}

// withVarLib is a command that sees a directory as /var/lib, where cnitool and runtimes keep their results.
func withVarLib(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(labtest.Tool(t, "unshare"), append([]string{"--mount", "sh", "-euc", `mount --bind "$0" /var/lib; exec "$@"`, dir}, args...)...)
}

// portmapScript makes the chain that portmap's tests look for; ours has none.
const portmapScript = `#!/bin/sh
%s/ours/portmap; status=$?
chain=CNI-DN-$(printf %%s "cni-portmap-unit-test$CNI_CONTAINERID" | sha512sum | cut -c1-21)
case $CNI_COMMAND in
ADD) iptables -w -t nat -N "$chain" ;;
DEL) iptables -w -t nat -X "$chain" ;;
esac >/dev/null 2>&1
exit $status
`

// Those of portmap's own tests that execute a plugin pass with this one.
func TestCNIPortmapSuite(t *testing.T) {
	labtest.LongOnly(t, "portmap's own tests")
	labtest.Tool(t, "go")
	labtest.Tool(t, "iptables")
	theirs, err := cniPrograms()
	require.NoError(t, err)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	h := &cniHost{T: t, testbed: newTestbed(t, top.Host), top: top}
	h.serve(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "ours"), 0o755))
	path, err := program()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(path, filepath.Join(dir, "ours/portmap")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "portmap"), fmt.Appendf(nil, portmapScript, dir), 0o755))

	cmd := isolated(t, filepath.Join(theirs, "portmap.test")+" -ginkgo.focus integration -ginkgo.no-color")
	cmd.Dir = "cni"
	cmd.Env = append(os.Environ(), "NFTNAT_SOCKET="+h.socket, "PATH="+dir+":"+theirs+":"+os.Getenv("PATH"), "CGO_ENABLED=0")
	r := labtest.Run(t, h.ns, cmd)
	require.Zero(t, r.Code, r.Stdout+r.Stderr)
	require.Regexp(t, `(?s)Ran 8 of \d+ Specs.*8 Passed \| 0 Failed`, r.Stdout)
	h.requireNothing()
	require.NotContains(t, nft(t, h.ns, "list", "ruleset"), "CNI-DN-")
}

// The page leads from portmap to nftnat-cni and back, with containers that are reached before, meanwhile and after.
func TestCNIPage(t *testing.T) {
	labtest.LongOnly(t, "cnitool and the plugins of others")
	labtest.Tool(t, "go")
	theirs, err := cniPrograms()
	require.NoError(t, err)
	h := newCNIHost(t)
	dir := t.TempDir()
	bin, lists := filepath.Join(dir, "bin"), filepath.Join(dir, "net.d")
	require.NoError(t, os.Mkdir(bin, 0o755))
	require.NoError(t, os.Mkdir(lists, 0o755))
	list := filepath.Join(lists, "10-containerd-net.conflist")
	const before = `{
  "cniVersion": "1.1.0",
  "name": "containerd-net",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "DATA", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]
      }
    },
    {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}
  ]
}
`
	text := strings.Replace(before, "DATA", filepath.Join(dir, "data"), 1)
	require.NoError(t, os.WriteFile(list, []byte(text), 0o644))
	h.serve(t)

	cache := t.TempDir()
	tool := func(verb, id, ports string) labtest.Result {
		cmd := withVarLib(t, cache, filepath.Join(theirs, "cnitool"), verb, "containerd-net", "/run/netns/"+id)
		cmd.Env = append(os.Environ(), "NFTNAT_SOCKET="+h.socket, "NETCONFPATH="+lists, "CNI_PATH="+bin+":"+theirs, `CAP_ARGS={"portMappings":`+ports+`}`)
		return labtest.Run(t, h.ns, cmd)
	}
	// One line of each block, as the page has it, for this host's paths.
	blocks := docBlocks(t, "docs/cni.md")
	page := func(i int, want string) {
		sudo, words, _ := strings.Cut(strings.TrimSpace(blocks[i].text), " ")
		require.Equal(t, "sudo", sudo)
		args := strings.Fields(strings.ReplaceAll(words, "/etc/cni/net.d", lists))
		require.Equal(t, "nftnat", args[0])
		r := labtest.Run(t, h.ns, bare(t, append(args[1:], "--bin-dir", bin)...))
		require.Zero(t, r.Code, r.Stderr)
		require.Contains(t, textOf(t, list), want)
	}
	var page1, page2 int
	for i, b := range blocks {
		switch {
		case b.runBy == "TestCNIPage" && strings.Contains(b.text, "uninstall"):
			page2 = i
		case b.runBy == "TestCNIPage":
			page1 = i
		}
	}
	in := labtest.NewNS(t, "p1")
	labtest.MountNS(t, in, "p1")
	pod := func(ours bool) {
		const ports = `[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp"},{"hostPort":8053,"containerPort":53,"protocol":"udp"},` +
			`{"hostPort":8081,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}]`
		r := tool("add", "p1", ports)
		require.Zero(t, r.Code, r.Stdout+r.Stderr)
		web, err := lab.EchoTCP(in, "p1", ":80")
		require.NoError(t, err)
		defer web.Close()
		dns, err := lab.EchoUDP(in, "p1", ":53")
		require.NoError(t, err)
		defer dns.Close()
		reached := []string{"tcp 192.0.2.1:8080", "udp 192.0.2.1:8053", "tcp [2001:db8:1::1]:8080", "udp [2001:db8:1::1]:8053"}
		for _, to := range reached {
			network, addr, _ := strings.Cut(to, " ")
			peer := labtest.Reaches(t, h.top.Client, network, addr, "p1")
			require.Contains(t, []string{"192.0.2.2", "2001:db8:1::2"}, peer.Addr().Unmap().String(), "the container sees the client")
		}
		if ours {
			require.Contains(t, h.published(), "0.0.0.0:8080->10.88.0.")
			for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081"} {
				labtest.Reaches(t, h.top.Host, "tcp", addr, "p1")
			}
			for _, verb := range []string{"check", "status"} {
				r = tool(verb, "p1", ports)
				require.Zero(t, r.Code, "%s: %s%s", verb, r.Stdout, r.Stderr)
			}
			// A runtime that knows of no container: DEL for those that it remembers, then GC.
			r = tool("gc", "p1", ports)
			require.Zero(t, r.Code, r.Stdout+r.Stderr)
		} else {
			require.Empty(t, h.published())
		}
		if ours { // which need not know the ports; portmap does
			r = tool("del", "p1", "[]")
		} else {
			r = tool("del", "p1", ports)
		}
		require.Zero(t, r.Code, r.Stdout+r.Stderr)
		h.requireNothing()
	}
	pod(false)
	page(page1, `"nftnat-cni", "replaces": "portmap"`)
	pod(true)
	page(page2, `"portmap"`)
	require.Equal(t, text, textOf(t, list))
	pod(false)
	require.NoDirExists(t, cni.RecordsDir(h.socket))
}

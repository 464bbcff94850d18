// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// nerdctlImage makes an image whose server says the name of its container's host.
const nerdctlImage = `
mkdir -p /var/image/bin /var/image/www/cgi-bin /var/archive
cp /bin/busybox /var/image/bin/busybox
for applet in sh httpd hostname; do ln -s busybox /var/image/bin/$applet; done
printf '#!/bin/sh\necho Content-Type: text/plain\necho\nhostname; echo $REMOTE_ADDR\n' >/var/image/www/cgi-bin/who
chmod +x /var/image/www/cgi-bin/who
cd /var/archive
tar -C /var/image -cf layer.tar .
sum=$(sha256sum layer.tar | cut -d' ' -f1)
cat >config.json <<END
{"architecture": "$1", "os": "linux", "config": {"Cmd": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$sum"]}}
END
echo '[{"Config": "config.json", "RepoTags": ["docker.io/library/web:latest"], "Layers": ["layer.tar"]}]' >manifest.json
tar -cf web.tar manifest.json config.json layer.tar
ctr --namespace default images import --snapshotter native web.tar
`

// nerdctlHost is a machine with a real containerd and nerdctl, and nftnat installed as packages do.
type nerdctlHost struct {
	*testing.T
	top     *lab.Topology
	machine *boottest.Machine
}

func newNerdctlHost(t *testing.T) *nerdctlHost {
	t.Helper()
	boottest.Require(t)
	for _, tool := range []string{"containerd", "ctr", "runc", "iptables", "curl", "busybox", "go"} {
		labtest.Tool(t, tool)
	}
	nerdctl := filepath.Join(t.TempDir(), "nerdctl")
	build := exec.Command("go", "build", "-o", nerdctl, "github.com/containerd/nerdctl/v2/cmd/nerdctl")
	build.Dir, build.Env = "nerdctl", append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	path, err := program()
	require.NoError(t, err)
	files := map[string]string{"/usr/bin/nftnat": path, "/usr/bin/nerdctl": nerdctl}
	for _, unit := range []string{"nftnat.service", "nftnat.socket"} {
		files["/usr/lib/systemd/system/"+unit] = units + "/" + unit
	}
	files["/usr/lib/sysusers.d/nftnat.conf"] = units + "/nftnat.sysusers.conf"
	files["/usr/lib/tmpfiles.d/nftnat.conf"] = units + "/nftnat.tmpfiles.conf"
	top := newTopology(t, lab.Options{})
	h := &nerdctlHost{T: t, top: top, machine: boottest.Boot(t, top.Host, files)}
	h.machine.Write("/etc/nerdctl/nerdctl.toml", `snapshotter = "native"
cgroup_manager = "cgroupfs"
cni_path = "/usr/lib/cni"
`, 0o644)
	h.machine.Write("/etc/containerd/config.toml", `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.overlayfs"]
`, 0o644)
	h.shell("systemctl enable --now nftnat.socket nftnat.service; systemctl start containerd; ln -s ../../bin/nftnat /usr/lib/cni/nftnat-cni")
	h.machine.Exec("sh", "-euc", nerdctlImage, "sh", runtime.GOARCH)
	return h
}

func (h *nerdctlHost) shell(script string) string {
	h.Helper()
	return h.machine.Exec("sh", "-euc", script)
}

// fails is what a command writes that must fail.
func (h *nerdctlHost) fails(script string) string {
	h.Helper()
	r := h.machine.Run("sh", "-euc", script)
	require.NotZero(h, r.Code, r.Stdout+r.Stderr)
	return r.Stderr
}

// serves requires that a container answers at a URL, to clients of its own address; its server may have to start.
func (h *nerdctlHost) serves(name string, from *lab.NS, url, client string) {
	h.Helper()
	plain := strings.NewReplacer("[", "", "]", "", "::ffff:", "")
	await(h.T, url+" to lead to "+name, func() bool {
		r := labtest.Run(h.T, from, command(h.T, "curl", "--silent", "--fail", "--max-time", "5", url+"/cgi-bin/who"))
		return plain.Replace(r.Stdout) == name+"\n"+client+"\n"
	})
}

// published are the frontends of nftnat ls.
func (h *nerdctlHost) published() string {
	h.Helper()
	var all []string
	for i, line := range strings.Split(strings.TrimSpace(h.shell("nftnat ls")), "\n") {
		if f := strings.Fields(line); i != 0 && len(f) > 2 {
			all = append(all, f[0]+" "+f[1])
		}
	}
	return strings.Join(all, ", ")
}

// nerdctl run -p with the plugin in the place of portmap: containers are reached, restarted, killed and removed.
func TestNerdctl(t *testing.T) {
	h := newNerdctlHost(t)
	const client = "192.0.2.2"
	h.shell("nerdctl create --name first --hostname first -p 8080:80 web; nerdctl rm first") // which writes the list
	h.shell("nftnat cni install --conflist /etc/cni/net.d/nerdctl-bridge.conflist")

	h.shell("nerdctl run -d --name one --hostname one -p 8080:80 web")
	h.shell("nerdctl run -d --name two --hostname two -p 127.0.0.1:8081:80 -p 9000-9009:9000-9009/udp web")
	require.Equal(t, "tcp 0.0.0.0:8080, tcp 127.0.0.1:8081, udp 0.0.0.0:9000-9009", h.published())
	h.serves("one", h.top.Client, "http://192.0.2.1:8080", client)
	h.serves("one", h.top.Host, "http://127.0.0.1:8080", "10.4.0.1")
	h.serves("two", h.top.Host, "http://127.0.0.1:8081", "10.4.0.1")

	// nerdctl itself finds ports that are taken.
	require.Contains(t, h.fails("nerdctl run -d --name three -p 8080:80 web"), "port is already allocated")
	h.shell("systemd-run --unit=web busybox httpd -f -p 8090")
	require.Contains(t, h.fails("nerdctl run -d --name three -p 8090:80 web"), "port is already allocated")
	require.Contains(t, h.fails("nerdctl run -d --name three -p 8091:80/sctp web"), "sctp")
	h.shell("nerdctl rm -f three")

	h.shell("nerdctl restart -t 1 one")
	h.serves("one", h.top.Client, "http://192.0.2.1:8080", client)
	h.shell("nerdctl stop -t 1 one")
	require.NotContains(t, h.published(), ":8080")
	h.shell("nerdctl start one")
	h.serves("one", h.top.Client, "http://192.0.2.1:8080", client)

	// The container dies with its shim, and containerd cleans up; then nftnat's daemon dies.
	h.shell("kill -KILL $(pgrep -f \"containerd-shim.*-id $(nerdctl inspect --format '{{.ID}}' one)\")")
	await(t, "the port of a killed container to go", func() bool { return !strings.Contains(h.published(), ":8080") })
	h.shell("nerdctl start one; systemctl kill --kill-whom=main --signal=KILL nftnat.service")
	h.serves("one", h.top.Client, "http://192.0.2.1:8080", client)

	// Networks of users are in a directory of nerdctl's namespace. Its lists have no way out for IPv6.
	h.shell("nerdctl network create --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 both")
	h.shell(`sed -i 's|"dst": "0.0.0.0/0"|"dst": "::/0"}, {&|' /etc/cni/net.d/default/nerdctl-both.conflist`)
	h.shell("nftnat cni install --conflist /etc/cni/net.d/default/nerdctl-both.conflist")
	h.shell("nerdctl run -d --name both --hostname both --network both -p 8082:80 -p '[::]:8083:80' web")
	h.serves("both", h.top.Client, "http://192.0.2.1:8082", client)
	h.serves("both", h.top.Client, "http://[2001:db8:1::1]:8083", "2001:db8:1::2")
	h.shell("nerdctl rm -f one two both")
	require.Empty(t, h.published())
	require.Empty(t, h.shell("ls /run/nftnat/nftnat.cni 2>/dev/null || true"))
	require.NotContains(t, h.shell("iptables-save"), "CNI-DN-")
}

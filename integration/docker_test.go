// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// dockerImage makes an image whose server says hello, and at /cgi-bin/who the address of its client.
const dockerImage = `
mkdir -p /var/image/bin /var/image/www/cgi-bin
cp /bin/busybox /var/image/bin/busybox
for applet in sh httpd wget nc sleep; do ln -s busybox /var/image/bin/$applet; done
echo hello >/var/image/www/index.html
printf '#!/bin/sh\necho Content-Type: text/plain\necho\necho $REMOTE_ADDR\n' >/var/image/www/cgi-bin/who
chmod +x /var/image/www/cgi-bin/who
tar -C /var/image -c . | docker import --change 'CMD ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]' - web
`

// dockerHost is a machine with a real dockerd, and nftnat installed as packages do.
type dockerHost struct {
	*testing.T
	top     *lab.Topology
	machine *boottest.Machine
}

func newDockerHost(t *testing.T) *dockerHost {
	t.Helper()
	boottest.Require(t)
	for _, tool := range []string{"dockerd", "docker", "curl", "busybox"} {
		labtest.Tool(t, tool)
	}
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Client, "outside", ":80")
	path, err := program()
	require.NoError(t, err)
	files := map[string]string{"/usr/bin/nftnat": path}
	for _, unit := range []string{"nftnat.service", "nftnat.socket", "nftnat-docker.service"} {
		files["/usr/lib/systemd/system/"+unit] = units + "/" + unit
	}
	files["/usr/lib/sysusers.d/nftnat.conf"] = units + "/nftnat.sysusers.conf"
	files["/usr/lib/tmpfiles.d/nftnat.conf"] = units + "/nftnat.tmpfiles.conf"
	h := &dockerHost{T: t, top: top, machine: boottest.Boot(t, top.Host, files)}
	h.shell("systemctl enable --now nftnat.socket nftnat.service")
	return h
}

func (h *dockerHost) shell(script string) string {
	h.Helper()
	return h.machine.Exec("sh", "-euc", script)
}

// blocks are those of the page that the test runs, in their order.
func (h *dockerHost) blocks(page []docBlock) (blocks []docBlock) {
	for _, b := range page {
		if b.runBy == strings.Split(h.Name(), "/")[0] {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// configure writes daemon.json as the page has it, with a storage driver for these files.
func (h *dockerHost) configure(block docBlock) {
	h.Helper()
	config := map[string]any{}
	require.NoError(h, json.Unmarshal([]byte(block.text), &config))
	config["storage-driver"] = "vfs"
	text, err := json.Marshal(config)
	require.NoError(h, err)
	h.machine.Write("/etc/docker/daemon.json", string(text), 0o644)
}

// get asks for a page from a namespace.
func (h *dockerHost) get(from *lab.NS, url string) string {
	h.Helper()
	return strings.TrimSpace(labtest.Exec(h.T, from, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", url))
}

// who is the client as the container sees it.
func (h *dockerHost) who(url string) string {
	h.Helper()
	return strings.TrimPrefix(strings.Trim(h.get(h.top.Client, url+"/cgi-bin/who"), "[]"), "::ffff:")
}

// inside runs a script in the container.
func (h *dockerHost) inside(container, script string) labtest.Result {
	h.Helper()
	return h.machine.Run("docker", "exec", container, "/bin/sh", "-c", script)
}

// reached requires that the container is reached by everybody.
func (h *dockerHost) reached() {
	h.Helper()
	for from, urls := range map[*lab.NS][]string{
		h.top.Host:   {"http://127.0.0.1:8080/", "http://[::1]:8080/", "http://192.0.2.1:8080/"},
		h.top.Client: {"http://192.0.2.1:8080/", "http://[2001:db8:1::1]:8080/"},
	} {
		for _, url := range urls {
			require.Equal(h, "hello", h.get(from, url), "%s from %s", url, from)
		}
	}
	require.Equal(h, "192.0.2.2", h.who("http://192.0.2.1:8080"), "the client's address is kept")
	r := h.inside("sibling", "wget -q -O - http://192.0.2.1:8080/")
	require.Equal(h, "hello\n", r.Stdout, r.Stderr)
	r = h.inside("web", "wget -q -O - http://192.0.2.1:8080/")
	require.Equal(h, "hello\n", r.Stdout, r.Stderr)
}

// waiting is how many processes wait for dockerd, and what they take.
func (h *dockerHost) waiting() (count, kib int) {
	h.Helper()
	lines := h.shell("for pid in $(pgrep --exact docker-proxy); do grep ^Pss: /proc/$pid/smaps_rollup || true; done")
	for line := range strings.Lines(lines) {
		count++
		kib += number(h.T, line, "Pss:")
	}
	return count, kib
}

// Beside the rules of dockerd, nftnat has the work of docker-proxy, and no more.
func TestDockerBesideRules(t *testing.T) {
	h := newDockerHost(t)
	blocks := h.blocks(docBlocks(t, "docs/docker.md"))
	require.Len(t, blocks, 3)
	h.shell(blocks[0].text)
	h.configure(blocks[1])
	h.shell("systemctl start docker")
	h.shell(dockerImage)
	h.shell(blocks[2].text)
	h.shell("docker run --detach --name sibling web")
	ls := h.shell("nftnat ls")
	require.Regexp(t, `(?m)^tcp +0\.0\.0\.0:8080 .* only`, ls)
	h.reached()
	require.Contains(t, h.shell("iptables -t nat -S DOCKER"), "--dport 8080 -j DNAT")
	require.NotContains(t, h.shell("nftnat status"), "warning")
	require.Contains(t, h.shell("nftnat explain tcp 8080 --from 192.0.2.2"), "passes by netfilter to 172.17.0.2:80")
	require.NotContains(t, h.shell("nftnat doctor || true"), "DOCKER")
	count, kib := h.waiting()
	require.Equal(t, 2, count, "one for each family")
	require.LessOrEqual(t, kib, 2*64)
	h.shell("docker restart web")
	h.reached()

	// A process that has carried the port without nftnat leaves it to nftnat as the same.
	h.shell("systemctl stop nftnat.socket nftnat.service; docker restart web")
	h.reached()
	h.shell("systemctl start nftnat.socket nftnat.service")
	await(t, "the port to be nftnat's", func() bool { return strings.Contains(h.shell("nftnat ls"), "0.0.0.0:8080") })
	require.Regexp(t, `(?m)^tcp +0\.0\.0\.0:8080 .* only`, h.shell("nftnat ls"))
	h.reached()
	h.shell("docker rm --force web")
	require.Empty(t, h.shell("nftnat ls --json | grep port || true"))
	r := h.machine.Run("sh", "-euc", "nftnat add tcp 8080 172.30.0.2:80; docker run --detach --publish 8080:80 web")
	require.NotZero(t, r.Code)
	require.Contains(t, r.Stderr, "nftnat: publish tcp 0.0.0.0:8080: tcp 8080 is published as 8080->172.30.0.2:80")
}

// With no rules of dockerd, nftnat publishes ports and declares networks, whoever is killed.
func TestDockerFull(t *testing.T) {
	h := newDockerHost(t)
	blocks := h.blocks(docBlocks(t, "docs/docker.md"))
	require.Len(t, blocks, 3)
	h.shell("mkdir -p /usr/local/libexec/nftnat; ln -s /usr/bin/nftnat /usr/local/libexec/nftnat/docker-proxy")
	h.machine.Write("/etc/docker/daemon.json", `{"storage-driver": "vfs"}`, 0o644)
	h.shell("systemctl start docker")
	h.shell(dockerImage)
	h.configure(blocks[0])
	h.shell(blocks[1].text)
	require.NotContains(t, h.shell("iptables-save"), "DOCKER", "dockerd makes no rules")
	h.shell("docker run --detach --name sibling web")
	await(t, "the networks to be declared", func() bool { return strings.Contains(h.shell("nftnat network ls"), "172.17.0.0/16") })
	h.reached()
	count, kib := h.waiting()
	require.Equal(t, 2, count)
	require.LessOrEqual(t, kib, 2*64)

	// The way out, for which a machine of the LAN need not know the way to containers, the guard, and isolation.
	labtest.Exec(t, h.top.Client, "ip", "route", "add", "unreachable", "172.17.0.0/16")
	out := h.inside("sibling", "echo | nc -w 5 192.0.2.2 80")
	require.Contains(t, out.Stdout, "outside", out.Stderr)
	labtest.Exec(t, h.top.Client, "ip", "route", "replace", "172.17.0.0/16", "via", "192.0.2.1")
	require.NotZero(t, labtest.Run(t, h.top.Client, exec.Command(labtest.Tool(t, "curl"), "--silent", "--max-time", "1", "http://172.17.0.2/")).Code, "it is not published")
	h.shell("docker network create other; docker run --detach --name elsewhere --network other web")
	await(t, "another network", func() bool { return strings.Count(h.shell("nftnat network ls"), "docker-") == 2 })
	r := h.inside("elsewhere", "busybox timeout 2 wget -q -O - http://172.17.0.2/; echo ended") // busybox-static crashes at -T
	require.Equal(t, "ended\n", r.Stdout, r.Stderr)
	require.Equal(t, "hello\n", h.inside("elsewhere", "wget -q -O - http://192.0.2.1:8080/").Stdout, "its published port is reached")
	require.Equal(t, "hello\n", h.inside("sibling", "wget -q -O - http://172.17.0.2/").Stdout)
	h.shell("docker rm --force elsewhere; docker network rm other")
	await(t, "a network to go", func() bool { return strings.Count(h.shell("nftnat network ls"), "docker-") == 1 })

	// A container that is restarted, and a table that is flushed.
	h.shell("docker restart web")
	h.reached()
	h.shell("nft flush ruleset")
	h.reached()

	// Either daemon is killed.
	before := h.machine.MainPid("nftnat.service")
	h.shell("systemctl kill --kill-whom=main --signal=KILL nftnat.service")
	await(t, "another daemon", func() bool {
		pid := h.machine.MainPid("nftnat.service")
		return pid != 0 && pid != before && h.machine.Property("nftnat.service", "ActiveState") == "active"
	})
	h.reached()
	await(t, "processes that wait again", func() bool {
		count, kib := h.waiting()
		return count == 2 && kib <= 2*64
	})
	h.shell("docker restart web")
	h.reached()
	h.shell("systemctl kill --kill-whom=main --signal=KILL docker.service")
	await(t, "the ports to go", func() bool { return !strings.Contains(h.shell("nftnat ls"), "8080") })
	await(t, "dockerd", func() bool { return h.machine.Run("docker", "start", "web", "sibling").Code == 0 })
	h.reached()

	// IPv6 in the container too.
	h.shell("docker network create --ipv6 --subnet fd00:99::/64 six; docker run --detach --name six --network six --publish 8086:80 web")
	await(t, "a network of both families", func() bool { return strings.Contains(h.shell("nftnat network ls"), "fd00:99::/64") })
	require.Equal(t, "hello", h.get(h.top.Client, "http://[2001:db8:1::1]:8086/"))
	require.Equal(t, "2001:db8:1::2", h.who("http://[2001:db8:1::1]:8086"))
	require.Equal(t, "hello", h.get(h.top.Host, "http://[::1]:8086/"))
	h.shell("docker rm --force six; docker network rm six")

	h.shell(blocks[2].text)
	require.Equal(t, 0, strings.Count(h.shell("nftnat network ls"), "docker-"))
	require.NotContains(t, h.shell("nftnat ls"), "8080")
	require.Contains(t, h.shell("iptables-save"), "DOCKER")
}

// A thousand ports of a container, of both families, are published and go.
func TestDockerThousand(t *testing.T) {
	labtest.LongOnly(t, "a thousand ports of a container")
	ports := labtest.Number(t, "NFTNAT_DOCKER_PORTS", 1000)
	h := newDockerHost(t)
	h.shell("mkdir -p /usr/local/libexec/nftnat; ln -s /usr/bin/nftnat /usr/local/libexec/nftnat/docker-proxy")
	h.configure(docBlock{text: `{"iptables": false, "ip6tables": false, "userland-proxy-path": "/usr/local/libexec/nftnat/docker-proxy"}`})
	h.shell("systemctl start nftnat-docker docker")
	h.shell(dockerImage)
	h.shell(fmt.Sprintf("docker run --detach --name web --publish 20000-%d:20000-%d --publish 8080:80 web", 20000+ports-1, 20000+ports-1))
	h.shell("docker run --detach --name sibling web")
	h.reached()
	count, kib := h.waiting()
	t.Logf("%d processes take %d KiB", count, kib)
	require.Equal(t, 2*(ports+1), count)
	require.LessOrEqual(t, kib, 9*count)
	h.shell("systemctl kill --kill-whom=main --signal=KILL nftnat.service")
	await(t, "the next daemon to serve localhost", func() bool {
		return labtest.Run(t, h.top.Host, command(t, "curl", "--silent", "--fail", "--max-time", "5", "http://127.0.0.1:8080/")).Code == 0
	})
	await(t, "processes that wait again", func() bool {
		count, kib := h.waiting()
		return count == 2*(ports+1) && kib <= 9*count
	})
	h.reached()
	h.shell("docker rm --force web")
	require.NotContains(t, h.shell("nftnat ls"), ":20000")
	count, _ = h.waiting()
	require.Zero(t, count)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestBesideDocker checks what docs/beside.md says about dockerd, with its lines.
func TestBesideDocker(t *testing.T) {
	h := newBesideHost(t, "docker", "dockerd")
	// The storage driver does not matter; the machine's own files are an overlay.
	h.machine.Write("/etc/docker/daemon.json", `{"storage-driver": "vfs"}`, 0o644)
	h.shell("systemctl start docker")
	require.Equal(t, "-P FORWARD DROP", h.forwardPolicy())
	daemon := h.publish()
	// Docker has rules for IPv4 only.
	h.onlyOpen(pathLocal, pathProxied, pathIn6)

	h.recipe("docker published")
	h.onlyOpen(pathLocal, pathProxied, pathIn6, pathIn4, pathHairpin)
	h.recipe("docker way out")
	h.allOpen()
	// The chain is the administrator's.
	h.shell("systemctl reload docker; systemctl restart docker")
	h.allOpen()
	h.restart(daemon)
	table := h.table() // a clean end and a start recreate it
	h.allOpen()
	h.recipe("docker undo")
	h.onlyOpen(pathLocal, pathProxied, pathIn6)

	// A port belongs to the program that took it first. The container has a program of the machine that needs no libraries.
	const container = "docker run --detach --volume /usr:/usr --publish "
	h.shell("tar --create --files-from=/dev/null | docker import - empty")
	r := h.machine.Run("sh", "-euc", container+"8080:80 empty /usr/bin/busybox sleep 1000")
	require.NotZero(t, r.Code)
	require.Contains(t, r.Stderr, "listen tcp4 0.0.0.0:8080: bind: address already in use")
	h.shell(container + "8090:80 empty /usr/bin/busybox sleep 1000")
	named := regexp.MustCompile(`tcp (0\.0\.0\.0|\[::\]):8090 is held by docker-proxy \(pid `) // there are two
	await(t, "the holder to be named", func() bool {
		r = h.testbed.run(t, "add tcp 8090 172.30.0.2:80")
		require.Equal(t, 3, r.Code, r.Stderr)
		return named.MatchString(r.Stderr)
	})
	h.shell("docker rm --force $(docker ps --all --quiet)")

	h.machine.Write("/etc/systemd/system/docker.service.d/nftnat.conf", h.text("docker unit"), 0o644)
	h.shell("systemctl daemon-reload; systemctl restart docker")
	h.allOpen()
	rules := h.machine.Exec("iptables", "-S", "DOCKER-USER")
	h.shell("systemctl restart docker")
	require.Equal(t, rules, h.machine.Exec("iptables", "-S", "DOCKER-USER"), "no line is there twice")
	h.shell("nft flush ruleset")
	h.allOpen()
	require.Equal(t, table, h.table(), "a table that is owned is not flushed")

	// Forwarding is on already, as if nftnat had been first. So Docker leaves the policy.
	h.shell("systemctl restart docker")
	require.Equal(t, "-P FORWARD ACCEPT", h.forwardPolicy())
	h.shell("iptables -F DOCKER-USER")
	h.allOpen()
	h.shell("systemctl stop docker docker.socket containerd")
	require.Equal(t, table, h.table(), "dockerd leaves the table alone")
	require.Zero(t, h.testbed.status(t).Table.Repaired)
}

// forwardPolicy is the policy of the chain FORWARD.
func (h *besideHost) forwardPolicy() string {
	h.Helper()
	policy, _, _ := strings.Cut(labtest.Exec(h.T, h.top.Host, "iptables", "-S", "FORWARD"), "\n")
	return policy
}

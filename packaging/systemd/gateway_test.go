// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The gateway's unit works as it is shipped, and its process has no capability. With a filter of calls
// that kills where the shipped one returns an error, nothing is killed.
func TestUnitsGateway(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartFar})
	labtest.EchoTCP(t, top.Client, "console", ":3074")
	m := bootInstalled(t, top.Host)
	dropIn(m, "nftnat-gateway.service", "kill", "SystemCallErrorNumber=kill")
	m.Exec("systemctl", "start", "nftnat.socket")
	r := m.Run("systemctl", "start", "nftnat-gateway.service")
	require.Zero(t, r.Code, r.Stderr)
	await(t, "a gateway without devices to fail", func() bool { return m.Property("nftnat-gateway.service", "ActiveState") == "failed" })

	m.Write("/etc/default/nftnat-gateway", fmt.Sprintf("NFTNAT_GATEWAY=\"--lan %s --wan %s\"\n", lab.HostLAN, lab.HostFar), 0o644)
	m.Exec("systemctl", "reset-failed", "nftnat-gateway.service")
	m.Exec("systemctl", "restart", "nftnat-gateway.socket", "nftnat-gateway.service")
	ask := []string{"curl", "--silent", "--fail", "--unix-socket", "/run/nftnat/gateway.sock", "http://localhost/v1/gateway"}
	var state struct {
		Address  string
		Warnings []string
		Leases   []struct{ External int }
	}
	await(t, "the gateway to answer", func() bool {
		r := m.As("member", ask[0], ask[1:]...)
		return r.Code == 0 && json.Unmarshal([]byte(r.Stdout), &state) == nil && len(state.Warnings) == 0
	})
	require.Equal(t, "198.51.100.1", state.Address)
	require.NotZero(t, m.As("stranger", ask[0], ask[1:]...).Code)

	c, err := top.Client.ListenPacket("udp4", "0.0.0.0:0")
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	await(t, "a lease", func() bool {
		_, err := c.WriteTo([]byte{0, 2, 0, 0, 12, 2, 12, 2, 0, 0, 2, 0}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5351})
		require.NoError(t, err)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		answer := make([]byte, 64)
		n, _, err := c.ReadFrom(answer)
		return err == nil && n == 16 && answer[3] == 0
	})
	labtest.Reaches(t, top.Far, "tcp", "198.51.100.1:3074", "console")
	require.Contains(t, m.Exec("nftnat", "ls"), "pmp")

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.MainPid("nftnat-gateway.service")))
	require.NoError(t, err)
	for _, line := range []string{"CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		require.Contains(t, string(status), line)
	}
	m.Exec("systemctl", "stop", "nftnat-gateway.service")
	require.Equal(t, "success", m.Property("nftnat-gateway.service", "Result"))
	labtest.Reaches(t, top.Far, "tcp", "198.51.100.1:3074", "console")
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The page's unit works as it is shipped, and with the settings of docs/web.md: another address, below
// 1024, and a token. With a filter of calls that kills where the shipped one returns an error, nothing is
// killed.
func TestUnitsWeb(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	m := bootInstalled(t, top.Host)
	dropIn(m, "nftnat-web.service", "kill", "SystemCallErrorNumber=kill")
	m.Exec("systemctl", "start", "nftnat.socket")
	m.Exec("nftnat", "add", "tcp", "8080", "172.30.0.2:80", "--name", "web")
	m.Exec("systemctl", "start", "nftnat-web.service")
	requirePage(t, m, "http://127.0.0.1:8081/")

	m.Write("/etc/nftnat/web-token", "0123456789abcdef\n", 0o640)
	m.Exec("chgrp", "nftnat", "/etc/nftnat/web-token")
	dropIn(m, "nftnat-web.service", "local", "ExecStart=\nExecStart=/usr/bin/nftnat web --listen 192.0.2.1:81 --host router.lan --token-file /etc/nftnat/web-token")
	m.Exec("systemctl", "restart", "nftnat-web.service")
	requirePage(t, m, "http://192.0.2.1:81/")
	m.Exec("curl", "--fail", "-H", "Host: router.lan", "-H", "Authorization: Bearer 0123456789abcdef", "-X", "DELETE",
		"http://192.0.2.1:81/v1/mappings/tcp/8080?name=web&backend=172.30.0.2:80")
	require.NotContains(t, m.Exec("nftnat", "ls"), "8080")
	m.Exec("systemctl", "stop", "nftnat-web.service")
	require.Equal(t, "success", m.Property("nftnat-web.service", "Result"))
}

// requirePage awaits the page with a mapping.
func requirePage(t *testing.T, m *boottest.Machine, url string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r := m.Run("curl", "--silent", "--fail", url)
		return r.Code == 0 && strings.Contains(r.Stdout, "tcp 8080")
	}, 20*time.Second, 50*time.Millisecond)
}

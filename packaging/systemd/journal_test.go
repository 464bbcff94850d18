// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The journal has the priorities of the daemon's lines, and not as a part of the text.
func TestJournalPriorities(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{})
	m := bootInstalled(t, top.Host)
	m.Write("/etc/systemd/system/nftnat.service.d/log.conf", "[Service]\nEnvironment=NFTNAT_LOG_LEVEL=debug\n", 0o644)
	m.Exec("systemctl", "daemon-reload")
	m.Exec("systemctl", "start", "nftnat.socket")
	m.Exec("nftnat", "add", "tcp", "80", "172.30.0.2:80", "--name", "web")
	require.Equal(t, 3, m.Run("nftnat", "add", "tcp", "80", "172.30.0.3:80").Code)
	m.Exec("journalctl", "--sync")
	priorities := map[string]string{}
	text := m.Exec("journalctl", "--unit=nftnat.service", "--output=json", "--output-fields=MESSAGE,PRIORITY")
	for line := range strings.Lines(text) {
		var entry struct{ Message, Priority string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
		what, _, _ := strings.Cut(entry.Message, ": uid=")
		priorities[what] = entry.Priority
	}
	require.Equal(t, "6", priorities["nftnat: published"], text)
	require.Equal(t, "7", priorities["nftnat: refused"], text)
}

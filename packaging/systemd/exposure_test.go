// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package systemd has nothing but units, and this test of them.
package systemd

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What systemd says that a unit is exposed to, of 10, is at most 2.1 for the daemon, and 1.6 for the page.
func TestExposure(t *testing.T) {
	analyze := labtest.Tool(t, "systemd-analyze")
	for unit, most := range map[string]string{"nftnat.service": "21", "nftnat-web.service": "16", "nftnat-gateway.service": "12"} {
		out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold="+most, unit).CombinedOutput()
		require.NoError(t, err, "%s", out)
		_, verdict, found := strings.Cut(string(out), "→ ")
		require.True(t, found, "%s", out)
		t.Log(strings.TrimSpace(verdict))
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.MainWithScratch(m)) }

// where is where packages install what is shipped here.
var where = map[string]string{
	"nftnat.service":         "/usr/lib/systemd/system/nftnat.service",
	"nftnat-gateway.service": "/usr/lib/systemd/system/nftnat-gateway.service",
	"nftnat-gateway.socket":  "/usr/lib/systemd/system/nftnat-gateway.socket",
	"nftnat-web.service":     "/usr/lib/systemd/system/nftnat-web.service",
	"nftnat.socket":          "/usr/lib/systemd/system/nftnat.socket",
	"nftnat.sysusers.conf":   "/usr/lib/sysusers.d/nftnat.conf",
	"nftnat.tmpfiles.conf":   "/usr/lib/tmpfiles.d/nftnat.conf",
}

// bootInstalled boots a machine that has everything installed as it is shipped, and the
// users member, who is in the group, and stranger, who is not.
func bootInstalled(t *testing.T, ns *lab.NS) *boottest.Machine {
	t.Helper()
	boottest.Require(t)
	labtest.Tool(t, "go")
	program := filepath.Join(labtest.Scratch(), "nftnat")
	build := exec.Command("go", "build", "-o", program, "../../cmd/nftnat")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	files := map[string]string{"/usr/bin/nftnat": program}
	for from, to := range where {
		files[to] = from
	}
	m := boottest.Boot(t, ns, files)
	m.Exec("useradd", "--groups", "nftnat", "member")
	m.Exec("useradd", "stranger")
	return m
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// The command, with the programs beside one another, as they are installed.
func TestDemo(t *testing.T) {
	labtest.Require(t)
	labtest.Tool(t, "etcd")
	dir := t.TempDir()
	for _, p := range []struct{ in, of string }{{"../../..", "./cmd/nftnat"}, {"../..", "./cmd/nftnat-fleet"}} {
		cmd := exec.Command(labtest.Tool(t, "go"), "build", "-o", dir+"/", p.of)
		cmd.Dir, cmd.Env = p.in, append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	temporary := t.TempDir()
	cmd := exec.Command(filepath.Join(dir, "nftnat-fleet"), "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary)
	r := labtest.Run(t, labtest.NewNS(t, "here"), cmd)
	require.Zero(t, r.Code, "%s%s", r.Stdout, r.Stderr)
	for _, part := range []string{
		"$ nftnat-fleet float create 192.0.2.100 --group edge --dev eth0",
		" dies: its agent is killed, and its cable is cut",
		"s after it died, another host serves",
		"$ nftnat-fleet handover 192.0.2.100 edge",
		"all of it worked; the namespaces are gone",
	} {
		require.Contains(t, r.Stdout, part)
	}
	require.Equal(t, 3, strings.Count(r.Stdout, `the server "web" answers, reached by way of edge`))
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// mostBytes bounds the size of a released program. A dependency that calls methods by names
// that are made at run time exceeds it at once (docs/adr/0019-metrics-of-our-own.md), and so does
// one that links TLS (docs/adr/0073-an-http-server-without-tls.md).
const mostBytes = 15<<20 + 512<<10

func TestBinarySize(t *testing.T) {
	if os.Getenv(envProgram) != "" {
		t.Skip("the program was built elsewhere")
	}
	labtest.LongOnly(t, "a build of the program as it is released, for its size")
	labtest.Tool(t, "go")
	labtest.Tool(t, "make")
	path := filepath.Join(t.TempDir(), "nftnat")
	out, err := exec.Command("make", "-C", "..", "program", "PROGRAM="+path).CombinedOutput()
	require.NoError(t, err, string(out))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(mostBytes))
}

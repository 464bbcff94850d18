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
// that are made at run time exceeds it at once (docs/adr/0019-metrics-of-our-own.md). 1.2 MB are for
// trace (docs/adr/0028-packets-are-marked-by-a-table-that-goes.md), 1.2 MB for ranges of ports as
// one element and for localhost by eBPF (docs/adr/0049 to 0054).
const mostBytes = 17 << 20

func TestBinarySize(t *testing.T) {
	if os.Getenv(envProgram) != "" {
		t.Skip("the program was built elsewhere")
	}
	labtest.LongOnly(t, "a build of the program as it is released, for its size")
	labtest.Tool(t, "go")
	path := filepath.Join(t.TempDir(), "nftnat")
	// As the Makefile builds it.
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "nethttpomithttp2", "-o", path, "../cmd/nftnat")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(mostBytes))
}

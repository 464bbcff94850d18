// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// memoryGroup makes a control group with a limit of memory, of either version, and returns its directory and how much
// was in it at most.
func memoryGroup(t *testing.T, limit int) (dir string, most func() int) {
	t.Helper()
	root, max, peak := "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		root, max, peak = "/sys/fs/cgroup", "memory.max", "memory.peak"
	}
	dir, err := os.MkdirTemp(root, "nftnat-test-")
	require.NoError(t, err)
	t.Cleanup(func() { await(t, "the control group to be empty", func() bool { return os.Remove(dir) == nil }) })
	if err := os.WriteFile(filepath.Join(dir, max), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Skipf("control groups have no limits of memory here: %v", err)
	}
	return dir, func() int {
		text, err := os.ReadFile(filepath.Join(dir, peak))
		require.NoError(t, err)
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		require.NoError(t, err)
		return n
	}
}

// In a group of 48 MiB a daemon with 1,000 ports of as many backends is taken over, which takes two for a moment. What
// 32 MiB have no room for is refused as a whole.
func TestTakeoverMemory(t *testing.T) {
	labtest.LongOnly(t, "takeovers with a limit of memory")
	mappings := make([]nat.Mapping, 1000)
	for i := range mappings {
		mappings[i] = nattest.Mapping(t, fmt.Sprintf("%d->172.30.%d.%d:80", 5000+i, 1+i/250, 1+i%250))
	}
	for _, limit := range []int{48 << 20, 32 << 20} {
		top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
		s := newTestbed(t, top.Host)
		group, most := memoryGroup(t, limit)
		start := func(args ...string) *labtest.Process {
			cmd := s.command(t, append([]string{"serve"}, args...)...)
			p := labtest.StartCmd(t, s.ns, command(t, "sh", append([]string{"-c", `echo 0 > "$1/cgroup.procs" && shift && exec "$@"`, "sh", group}, cmd.Args...)...))
			await(t, "the daemon to answer", func() bool {
				st, err := s.api.Status(t.Context())
				return err == nil && st.PID == p.Pid
			})
			return p
		}
		first := start()
		want := len(mappings)
		_, err := s.api.Apply(t.Context(), mappings...)
		if err != nil {
			require.Less(t, limit, 48<<20, "%v", err)
			require.ErrorContains(t, err, unix.ENOMEM.Error())
			want = 0
		}
		second := start("--takeover")
		require.Zero(t, first.Wait(), first.Output())
		ms, err := s.api.Mappings(t.Context())
		require.NoError(t, err)
		require.Len(t, ms, want)
		t.Logf("%d MiB: %d ports, at most %d KiB", limit>>20, len(ms), most()>>10)
		require.NoError(t, second.Signal(unix.SIGTERM))
		second.Wait()
	}
}

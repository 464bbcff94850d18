// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestExec(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	require.Equal(t, inside(t, ns)+"\n", labtest.Exec(t, ns, "readlink", "/proc/self/ns/net"))
	require.Equal(t, "typed", labtest.ExecInput(t, ns, "typed", "cat"))
	requireThreadsAtHome(t)
}

func TestExecFails(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	text, how := record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.Exec(tb, ns, "sh", "-c", "echo out; echo why >&2; exit 3")
	})
	require.Equal(t, failed, how)
	require.Contains(t, text, "one: sh -c echo out; echo why >&2; exit 3: exit status 3\nout\nwhy\n")
}

func TestRun(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	r := labtest.Run(t, ns, exec.Command("sh", "-c", "echo out; echo err >&2; exit 5"))
	require.Equal(t, labtest.Result{Stdout: "out\n", Stderr: "err\n", Code: 5}, r)
	r = labtest.Run(t, ns, exec.Command("sh", "-c", "kill -9 $$"))
	require.Equal(t, -1, r.Code)

	cmd := exec.Command("sh", "-c", "echo $COLOUR")
	cmd.Env = []string{"COLOUR=blue"}
	var out bytes.Buffer
	cmd.Stdout = &out
	require.Empty(t, labtest.Run(t, ns, cmd).Stdout)
	require.Equal(t, "blue\n", out.String())

	_, how := record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.Run(tb, ns, exec.Command("/no/such/program"))
	})
	require.Equal(t, failed, how)
}

func TestStart(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	p := labtest.Start(t, ns, "sh", "-c", "trap 'echo bye; exit 7' TERM; readlink /proc/self/ns/net; while :; do sleep 0.05; done")
	require.Eventually(t, func() bool { return strings.HasSuffix(p.Output(), "\n") }, timeout, time.Millisecond)
	require.Equal(t, inside(t, ns)+"\n", p.Output())
	select {
	case <-p.Done():
		t.Fatal("ended by itself")
	default:
	}
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Equal(t, 7, p.Wait())
	require.Contains(t, p.Output(), "bye\n")
	require.ErrorIs(t, p.Signal(syscall.SIGTERM), os.ErrProcessDone)
	p.Kill()

	_, how := record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.StartCmd(tb, ns, exec.Command("/no/such/program"))
	})
	require.Equal(t, failed, how)
}

// What is still there at the end of a test goes then.
func TestStartKills(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	var p *labtest.Process
	t.Run("inner", func(t *testing.T) {
		p = labtest.Start(t, ns, "sleep", "1000")
		require.NoError(t, syscall.Kill(p.Pid, 0))
	})
	<-p.Done()
	require.ErrorIs(t, syscall.Kill(p.Pid, 0), syscall.ESRCH)
	require.Equal(t, -1, p.Wait())
	requireThreadsAtHome(t)
}

func TestTool(t *testing.T) {
	require.FileExists(t, labtest.Tool(t, "sh"))
	t.Setenv("PATH", "/nowhere")
	t.Setenv("NFTNAT_TEST_NETNS", "")
	text, how := record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.Tool(tb, "no-such-tool")
	})
	require.Equal(t, skipped, how)
	require.Contains(t, text, "no-such-tool")
	t.Setenv("NFTNAT_TEST_NETNS", "require")
	_, how = record(t, func(tb testing.TB) {
		tb.Helper()
		labtest.Tool(tb, "no-such-tool")
	})
	require.Equal(t, failed, how)
}

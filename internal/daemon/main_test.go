// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// envChild makes this program a daemon with its files in a directory. Run confines its process.
const envChild = "DAEMON_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envChild); dir != "" {
		os.Exit(childMain(dir))
	}
	os.Exit(labtest.Main(m))
}

func childMain(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := Run(ctx, Options{
		Socket: filepath.Join(dir, "socket"), StateFile: filepath.Join(dir, "state"),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A daemon serves until its context is done, and leaves the state file and no socket.
func TestRun(t *testing.T) {
	ns, dir := labtest.NewNS(t, "host"), t.TempDir()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), envChild+"="+dir)
	p := labtest.StartCmd(t, ns, cmd)
	client := api.NewClient(filepath.Join(dir, "socket"))
	var st api.Status
	require.Eventually(t, func() bool {
		st, err = client.Status(t.Context())
		return err == nil
	}, labtest.Stretch(30*time.Second), 10*time.Millisecond)
	require.Equal(t, p.Pid, st.PID)
	_, err = client.Publish(t.Context(), nat.PublishOptions{}, mapped(t, "web", "8080->172.17.0.2:80"))
	require.NoError(t, err)
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())
	require.Contains(t, p.Output(), `msg=published uid=0`)
	kept, err := os.ReadFile(filepath.Join(dir, "state"))
	require.NoError(t, err)
	require.Contains(t, string(kept), "172.17.0.2:80")
	require.NoFileExists(t, filepath.Join(dir, "socket"))
}

// Options with which no daemon can run are refused before anything has changed.
func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"invalid number of mappings 1001 for the metrics: it is not 0 to 1000": {MetricsMappings: MaxMetricsMappings + 1},
		"listen for metrics: address 80: missing port in address":              {Metrics: "80"},
		"--group 4294967295: there is no such group":                           {Group: "4294967295"},
	} {
		var bad *OptionError
		require.ErrorAs(t, Run(t.Context(), o), &bad)
		require.EqualError(t, bad, want)
	}
}

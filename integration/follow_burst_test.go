// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// routeBurst is a batch for ip(8) that adds and deletes routes.
func routeBurst(changes int) string {
	var batch strings.Builder
	for i := range changes / 2 {
		fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 dev %s\nroute del 10.%[1]d.%[2]d.0/24 dev %[3]s\n", i>>8&0xff, i&0xff, lab.HostBridge)
	}
	return batch.String()
}

// metric reads one figure of the daemon.
func (s *testbed) metric(t *testing.T, name string) float64 {
	t.Helper()
	r, err := s.client().Get("http://nftnat/metrics")
	require.NoError(t, err)
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n"+name+" ")
	require.True(t, found, name)
	figure, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(figure, 64)
	require.NoError(t, err)
	return v
}

// Under a burst of changes of the routing table the daemon looks at the host at most once in
// 100 ms, and follows what matters all the same.
func TestBurst(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	s.succeed(t, "add --quiet tcp 192.0.2.77:8080 172.30.0.2:80")
	const looks, cpu = "nftnat_host_looks_total", "process_cpu_seconds_total"
	begin, looked, used := time.Now(), s.metric(t, looks), s.metric(t, cpu)
	burst := labtest.Rounds(t, "changes of routes", 20_000, 200_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		labtest.ExecInput(t, top.Host, routeBurst(burst), "ip", "-batch", "-")
	}()
	move(t, top.Host, "add", "192.0.2.77/24")
	answers(t, top.Client, "tcp", "192.0.2.77:8080")
	<-done
	took := time.Since(begin)
	const pause = 100 * time.Millisecond
	require.LessOrEqual(t, s.metric(t, looks)-looked, float64(took/pause)+2)
	t.Logf("%.0f changes a second for %v: %.1f looks a second, %.1f %% of a processor",
		float64(burst)/took.Seconds(), took, (s.metric(t, looks)-looked)/took.Seconds(), 100*(s.metric(t, cpu)-used)/took.Seconds())
	require.NoError(t, top.Host.Sysctl("net.ipv4.ip_forward", "0"))
	await(t, "forwarding", func() bool {
		on, err := top.Host.ReadSysctl("net.ipv4.ip_forward")
		return err == nil && on == "1"
	})
}

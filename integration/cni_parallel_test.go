// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Two hundred containers come and go at the same time.
func TestCNIParallel(t *testing.T) {
	h := newCNIHost(t)
	h.serve(t)
	h.pod("c1")
	const count = 200
	settings := h.settings()
	nobody := func(int) bool { return false }
	require.Empty(t, h.each("ADD", count, nobody))
	require.Equal(t, 2*count, h.countPorts())
	require.Empty(t, h.each("CHECK", 20, nobody))
	require.Empty(t, h.each("DEL", count, nobody))
	h.requireNothing()
	require.Equal(t, settings, h.settings())
	h.succeed(t, "purge")
	require.Empty(t, nft(t, h.ns, "list", "ruleset"))
}

// Containers come and go while daemon and plugins are killed. What the runtime then does again leaves everything
// published once, and nothing in the end.
func TestCNIKill(t *testing.T) {
	h := newCNIHost(t)
	daemon := h.serve(t)
	h.pod("c1")
	count := labtest.RoundsOf(t, "NFTNAT_CNI_PODS", "containers", 30, 200)
	settings := h.settings()
	nobody := func(int) bool { return false }
	for _, command := range []string{"ADD", "DEL"} {
		// The daemon ends in the middle, and another one is started.
		restarted := make(chan struct{})
		go func() {
			defer close(restarted)
			time.Sleep(50 * time.Millisecond)
			daemon.Kill()
		}()
		h.each(command, count, func(i int) bool { return i%2 == 0 })
		<-restarted
		daemon = h.serve(t)
		require.Empty(t, h.each(command, count, nobody))
		if command == "ADD" {
			require.Equal(t, 2*count, h.countPorts())
			require.Empty(t, h.each("CHECK", count, nobody))
		}
	}
	h.requireNothing()
	require.Equal(t, settings, h.settings())
	h.succeed(t, "purge")
	require.Empty(t, nft(t, h.ns, "list", "ruleset"))
}

// settings are those of the kernel that plugins change, without forwarding, which stays on.
func (h *cniHost) settings() string {
	h.Helper()
	return labtest.Exec(h.T, h.ns, "sysctl", "--all", "--ignore", "--pattern", "route_localnet|rp_filter|accept_local")
}

// countPorts is how many ports are published.
func (h *cniHost) countPorts() (ports int) {
	h.Helper()
	ms, err := h.api.Mappings(context.Background())
	require.NoError(h, err)
	for _, m := range ms {
		ports += int(m.More) + 1
	}
	return ports
}

// each makes a call for so many containers of two ports, 16 at a time. Some plugins are killed, each a bit later than the one before. It
// returns which calls did not succeed.
func (h *cniHost) each(command string, count int, killed func(i int) bool) (failed []string) {
	h.Helper()
	var (
		mu   sync.Mutex
		wait sync.WaitGroup
	)
	slots := make(chan struct{}, 16)
	for i := range count {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			cmd := h.prepare(cniCall{
				command: command, id: fmt.Sprint("pod", i), netNS: "/run/netns/c1", prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.2/24"}]}`,
				ports: fmt.Sprintf(`[{"hostPort":%d,"containerPort":80,"protocol":"tcp"},{"hostPort":%d,"containerPort":80,"protocol":"udp"}]`, 10000+i, 10000+i),
			})
			if killed(i) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%40)*500*time.Microsecond)
				defer cancel()
				limited := exec.CommandContext(ctx, cmd.Path)
				limited.Args, limited.Env, limited.Stdin = cmd.Args, cmd.Env, cmd.Stdin
				// The error is that of the context if it is done before the start.
				_ = h.ns.Do(limited.Run)
				return
			}
			if r := labtest.Run(h.T, h.ns, cmd); r.Code != 0 {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, r.Stdout)
			}
		})
	}
	wait.Wait()
	return failed
}

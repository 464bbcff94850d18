// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
)

// A host of the LAN that asks for ports, and gives them back, all the time makes a line a second in the daemon's log,
// and one in the gateway's by what is refused. None is uncounted, and what an operator does meanwhile is logged.
func TestGatewayLog(t *testing.T) {
	t.Parallel() // it waits for answers
	b := newGatewayTestbed(t, lab.HostBridge)
	b.start(t)
	c := b.dial(t, b.one)
	began := time.Now()
	changes, added := 0, 0
	for n := 0; time.Since(began) < 3*time.Second; n++ {
		for range 2 { // the second renews
			result, port, _ := c.pmp(t, pmpTCP, 8000, 8000, 600)
			require.Zero(t, result)
			require.Equal(t, uint16(8000), port)
		}
		result, _, _ := c.pmp(t, pmpTCP, 8000, 0, 0)
		require.Zero(t, result)
		result, _, _ = c.pmp(t, pmpUDP, 80, 80, 600)
		require.NotZero(t, result, "it is denied by the rules")
		changes += 2
		if n%10 == 0 {
			b.succeed(t, fmt.Sprintf("add tcp %d 172.30.0.3:80 --name operator", 20000+n))
			added++
		}
	}
	for internal := range uint16(5) { // these end by themselves
		result, _, _ := c.pmp(t, pmpUDP, 9000+internal, 9000+internal, 1)
		require.Zero(t, result)
		changes += 2
	}
	count := regexp.MustCompile(`have expired: not_listed=(\d+)`)
	lines := func() (leases, all int) {
		for line := range strings.Lines(b.serving.Output()) {
			if m := count.FindStringSubmatch(line); m != nil {
				left, err := strconv.Atoi(m[1])
				require.NoError(t, err)
				leases += left
			} else if strings.Contains(line, "name=pmp") {
				leases++
			}
			all++
		}
		return leases, all
	}
	await(t, "each change to be counted", func() bool { n, _ := lines(); return n == changes })
	seconds := int(time.Since(began)/time.Second) + 2
	text := b.serving.Output()
	require.Equal(t, added, strings.Count(text, "name=operator"), text)
	_, all := lines()
	// Those on leases, and of hairpin mode "on" and "back", each once a second.
	require.LessOrEqual(t, all-added, 3*seconds, text)
	require.LessOrEqual(t, strings.Count(b.gateway.Output(), "\n"), seconds, b.gateway.Output())
	t.Logf("%d changes: %d lines in %d s", changes, all-added, seconds)
}

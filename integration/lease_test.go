// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"cmp"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// expires returns the remaining time of the elements of a map, by port.
func expires(t *testing.T, ns *lab.NS, set string) map[string]time.Duration {
	t.Helper()
	left := map[string]time.Duration{}
	for _, found := range regexp.MustCompile(`(\d+) timeout \w+ expires (\w+)`).FindAllStringSubmatch(
		nft(t, ns, "list", "map", "inet", "nftnat", set), -1) {
		days, rest, ok := strings.Cut(found[2], "d")
		if !ok {
			days, rest = "0", found[2]
		}
		d, err := time.ParseDuration(cmp.Or(rest, "0s"))
		require.NoError(t, err)
		left[found[1]] = time.Duration(must(strconv.Atoi(days)))*24*time.Hour + d
	}
	return left
}

// The same command again renews a mapping with a time-out in the kernel, and its clients do
// not notice.
func TestLeaseRenewed(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	s.serve(t)
	events := s.follow(t)
	var flows []*flow
	for _, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" 8080 172.30.0.2:80 --ttl 10m --name web")
		for _, address := range []string{"127.0.0.1:8080", "[::1]:8080"} {
			flows = append(flows, dialFlow(t, top.Host, network, address))
		}
		flows = append(flows, dialFlow(t, top.Client, network, "192.0.2.1:8080"))
	}
	for _, f := range flows {
		require.Equal(t, "backend", f.name(t))
	}
	carried := s.status(t).Flows
	for _, network := range []string{"tcp", "udp"} {
		require.Less(t, expires(t, top.Host, network+"4")["8080"], 11*time.Minute)
		require.Equal(t, "8080->172.30.0.2:80"+suffix(network)+"\n", s.succeed(t, "add "+network+" 8080 172.30.0.2:80 --ttl 1h --name web"))
		require.Greater(t, expires(t, top.Host, network+"4")["8080"], 50*time.Minute)
		// It is the same mapping.
		require.Equal(t, 3, s.run(t, "add "+network+" 8080 172.30.0.2:80 --ttl 1h").Code)
		require.Equal(t, 3, s.run(t, "add "+network+" 8080 172.30.0.2:81 --ttl 1h --name web").Code)
	}
	require.Equal(t, carried, s.status(t).Flows)
	for _, f := range flows {
		goesOn(t, f)
	}
	require.Equal(t, 2, s.status(t).Proxies)
	await(t, "the events", func() bool { return len(events()) == 4 })
	for _, event := range events() {
		require.Equal(t, api.EventPublished, event.Type)
	}

	// It can get a shorter time. When it ends, its proxy does, and there is one event.
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80 --ttl 500ms --name web")
	await(t, "the end", func() bool { return len(events()) == 6 })
	require.Equal(t, api.EventExpired, events()[5].Type)
	require.Equal(t, 1, s.status(t).Proxies)
	_, _, err := askWithin(top.Host, "tcp", "127.0.0.1:8080", netip.AddrPort{}, answerTimeout)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.NotContains(t, nft(t, top.Host, "list", "map", "inet", "nftnat", "tcp4"), "8080")

	// Without a time-out it stays for ever.
	s.succeed(t, "add --quiet udp 8080 172.30.0.2:80 --name web")
	require.Empty(t, expires(t, top.Host, "udp4"))
	require.Equal(t, 3, s.run(t, "add udp 8080 172.30.0.2:80 --ttl 1h --name web").Code)
	require.Zero(t, s.run(t, "add udp 8080 172.30.0.2:80 --name web").Code, "it is there already")
}

// The kernel ends a renewed mapping at the new time, also if no process runs.
func TestLeaseOutlivesTheDaemon(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":81")
	s := newTestbed(t, top.Host)
	s.succeed(t, "add --quiet tcp 8080-8081 172.30.0.2:80-81 --ttl 1m")
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80 --ttl 1s")
	s.succeed(t, "add --quiet tcp 8081 172.30.0.2:81 --ttl 1h")
	kill(t, s.daemon(t), unix.SIGKILL)
	await(t, "the kernel to end it", func() bool {
		_, there := expires(t, top.Host, "tcp4")["8080"]
		return !there
	})
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
	require.Greater(t, expires(t, top.Host, "tcp4")["8081"], 50*time.Minute)
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8081", "backend")
	// An engine that adopts it can renew it.
	s.succeed(t, "add --quiet tcp 8081 172.30.0.2:81 --ttl 2h")
	require.Greater(t, expires(t, top.Host, "tcp4")["8081"], 110*time.Minute)
	require.Equal(t, 1, s.status(t).Proxies)
}

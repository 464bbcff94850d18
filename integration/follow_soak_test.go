// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// How long the host changes unless the environment says otherwise.
const (
	envHostSoak     = "NFTNAT_HOST_SOAK"
	defaultHostSoak = 12 * time.Second
)

// hostSoak is a host that changes while a daemon serves it.
type hostSoak struct {
	*testing.T
	*testbed
	*rand.Rand
	top    *lab.Topology
	file   string
	daemon *labtest.Process
	steps  map[string]int
}

// For NFTNAT_HOST_SOAK, links, addresses, routes, rules, sysctls and bridges of the host change
// at random under traffic, and the daemon is killed and taken over. In the end, and in
// between, table, sysctls and who is answered are as after a fresh start on the same host.
func TestHostSoak(t *testing.T) {
	labtest.LongOnly(t, "random changes of the host")
	lasts := defaultHostSoak
	if text := os.Getenv(envHostSoak); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(t, err, envHostSoak)
	}
	seed := uint64(labtest.Number(t, envSeed, defaultSeed))
	t.Logf("%s=%d", envSeed, seed)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar, BridgeNF: true})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "one", ":80")
		labtest.Echo(t, top.Backend2, network, "two", ":80")
	}
	k := &hostSoak{T: t, testbed: newTestbed(t, top.Host), Rand: rand.New(rand.NewPCG(seed, 0)), top: top, steps: map[string]int{}}
	k.file = filepath.Join(filepath.Dir(k.socket), "state")
	k.daemon = k.serve(t, "--state", k.file)
	k.succeed(t, "network create inside fd00:30::/64 --gateway fd00:30::1")
	for _, line := range soakMappings() {
		k.succeed(t, "add --quiet "+line)
	}
	for _, c := range []*callers{startCallers(t, top.Client, "tcp", "192.0.2.1:8080"), startCallers(t, top.Client, "udp", "192.0.2.1:8080")} {
		defer c.halt() // connections fail while links are down
	}
	period := min(lasts/3, time.Minute)
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		for stop := time.Now().Add(period); time.Now().Before(stop); {
			k.change()
			time.Sleep(time.Duration(k.IntN(int(300 * time.Millisecond))))
		}
		k.compare()
	}
	t.Logf("changes: %v", k.steps)
}

// soakMappings are mappings of each kind, as arguments of add.
func soakMappings() []string {
	var lines []string
	for _, proto := range []string{"tcp", "udp"} {
		lines = append(lines,
			proto+" 8080 172.30.0.2:80", proto+" [::]:8081 [fd00:30::2]:80", proto+" 192.0.2.77:8082 172.30.0.2:80",
			proto+" [2001:db8:1::77]:8083 [fd00:30::3]:80", proto+" 127.0.0.1:8084 172.30.0.3:80",
			proto+" 192.0.2.1:8085 [fd00:30::2]:80", proto+" --no-proxy 8086 172.30.0.3:80",
		)
	}
	return lines
}

// ip runs ip(8), which may fail: what it deletes may be gone.
func (k *hostSoak) ip(ns *lab.NS, line string) {
	labtest.Run(k.T, ns, command(k.T, "ip", strings.Fields(line)...))
}

// hostChanges are the changes of the host, by name.
func hostChanges() map[string]func(*hostSoak) {
	host := func(lines ...string) func(*hostSoak) {
		return func(k *hostSoak) { k.ip(k.top.Host, lines[k.IntN(len(lines))]) }
	}
	return map[string]func(*hostSoak){
		"address": host("addr add 192.0.2.77/24 dev lan0", "addr del 192.0.2.77/24 dev lan0",
			"addr add 2001:db8:1::77/64 dev lan0 nodad", "addr del 2001:db8:1::77/64 dev lan0"),
		"inside address": host("addr del 172.30.0.1/24 dev br0", "addr add 172.30.0.1/24 dev br0",
			"addr del fd00:30::1/64 dev br0", "addr add fd00:30::1/64 dev br0 nodad",
			"addr add 172.30.1.1/24 dev br0", "addr add 2001:db8:30::1/64 dev br0 nodad"),
		"route": host("route add 172.30.0.2/32 dev br0", "route del 172.30.0.2/32 dev br0", "route add 172.16.0.0/12 dev far0",
			"route del 172.16.0.0/12 dev far0", "route add blackhole 172.30.0.3/32", "route del blackhole 172.30.0.3/32",
			"-6 route add fd00:30::2/128 dev br0", "-6 route del fd00:30::2/128 dev br0"),
		"rule": host("rule add from 192.0.2.9 lookup 100", "rule del from 192.0.2.9 lookup 100",
			"route add default via 198.51.100.2 table 100", "-6 rule add from 2001:db8:1::9 lookup 100", "-6 rule del from 2001:db8:1::9 lookup 100"),
		"link": func(k *hostSoak) {
			link := []string{lab.HostLAN, lab.HostBridge, lab.HostPort1, lab.HostFar}[k.IntN(4)]
			k.ip(k.top.Host, "link set "+link+" down")
			time.Sleep(time.Duration(k.IntN(int(100 * time.Millisecond))))
			k.ip(k.top.Host, "link set "+link+" up")
			k.restoreIPv6()
		},
		"bridge port": func(k *hostSoak) {
			k.ip(k.top.Host, "link set port1 nomaster")
			k.ip(k.top.Host, "link set port1 master br0")
		},
		"bridge": func(k *hostSoak) { // as a container runtime makes it anew
			k.ip(k.top.Host, "link del br0")
			k.ip(k.top.Host, "link add br0 type bridge")
			k.ip(k.top.Host, "link set br0 up")
			k.ip(k.top.Host, "link set port1 master br0")
			k.ip(k.top.Host, "link set port2 master br0")
			k.ip(k.top.Host, "addr add 172.30.0.1/24 dev br0")
			k.restoreIPv6()
		},
		"sysctl": func(k *hostSoak) {
			for _, key := range []string{
				"net.ipv4.ip_forward", "net.ipv4.conf.lan0.forwarding", "net.ipv4.conf.br0.forwarding",
				"net.ipv6.conf.lan0.force_forwarding", "net.ipv6.conf.br0.force_forwarding",
			} {
				if k.IntN(3) == 0 {
					_ = k.top.Host.Sysctl(key, "0") // not every kernel has each, nor is each link there
				}
			}
		},
		"neighbour": host("neigh flush dev br0", "neigh flush dev lan0"),
		"daemon": func(k *hostSoak) {
			if k.IntN(2) == 0 {
				k.daemon.Kill()
				k.daemon = k.serve(k.T, "--state", k.file)
				return
			}
			before := k.daemon
			k.daemon = k.serve(k.T, "--state", k.file, "--takeover")
			require.Zero(k, before.Wait(), before.Output())
		},
	}
}

// restoreIPv6 adds the IPv6 addresses that the kernel has deleted with a link that went down.
func (k *hostSoak) restoreIPv6() {
	for link, prefix := range map[string]string{lab.HostLAN: "2001:db8:1::1/64", lab.HostBridge: "fd00:30::1/64", lab.HostFar: "2001:db8:2::1/64"} {
		k.ip(k.top.Host, "addr add "+prefix+" dev "+link+" nodad")
	}
}

func (k *hostSoak) change() {
	changes := hostChanges()
	names := slices.Sorted(maps.Keys(changes))
	name := names[k.IntN(len(names))]
	k.steps[name]++
	changes[name](k)
}

// compare compares the host as the daemon keeps it with what a fresh start makes of it.
func (k *hostSoak) compare() {
	k.Helper()
	var before string
	await(k.T, "the host to settle", func() bool {
		now := k.read()
		settled := now == before
		before = now
		if !settled {
			time.Sleep(time.Second)
		}
		return settled
	})
	had, reached := k.forwarding(), k.reached()
	// Purge leaves nothing behind, except forwarding; the file is kept.
	kept, err := os.ReadFile(k.file)
	require.NoError(k, err)
	k.succeed(k.T, "purge")
	require.Zero(k, k.daemon.Wait(), k.daemon.Output())
	require.NoError(k, os.WriteFile(k.file, kept, 0o600))
	labtest.Exec(k.T, k.top.Host, "conntrack", "-F")
	for key := range k.forwarding() {
		require.NoError(k, k.top.Host.Sysctl(key, "0"))
	}
	k.daemon = k.serve(k.T, "--state", k.file)
	after := k.read()
	for end := time.Now().Add(labtest.Stretch(10 * time.Second)); after != before && time.Now().Before(end); after = k.read() {
		time.Sleep(100 * time.Millisecond)
	}
	require.Equal(k, after, before, "after a fresh start, and before; changes: %v", k.steps)
	for key := range k.forwarding() {
		require.Contains(k, had, key, "turned on after a fresh start alone")
	}
	require.Equal(k, reached, k.reached(), "after a fresh start; changes: %v", k.steps)
}

var elementLists = regexp.MustCompile(`(?s)elements = \{.*?\}`)

// read lists the table and the rules of routing.
func (k *hostSoak) read() string {
	k.Helper()
	r := labtest.Run(k.T, k.top.Host, command(k.T, "nft", "list", "table", "inet", "nftnat"))
	// The kernel lists elements in no order.
	r.Stdout = elementLists.ReplaceAllStringFunc(r.Stdout, func(list string) string {
		es := strings.Split(strings.Trim(list[len("elements = {"):], " \t\n}"), ",")
		for i := range es {
			es[i] = strings.TrimSpace(es[i])
		}
		slices.Sort(es)
		return strings.Join(es, "\n")
	})
	rules := labtest.Exec(k.T, k.top.Host, "ip", "rule") + labtest.Exec(k.T, k.top.Host, "ip", "-6", "rule")
	return r.Stdout + rules
}

// forwarding returns the switches of forwarding that are on.
func (k *hostSoak) forwarding() map[string]bool {
	k.Helper()
	on := map[string]bool{}
	for key, value := range sysctls(k.T, k.top.Host) {
		name := strings.ReplaceAll("net/"+key, "/", ".")
		if value == "1" && (key == "ipv4/ip_forward" || strings.HasSuffix(key, "/force_forwarding")) {
			on[name] = true
		}
	}
	return on
}

// asksAtATime bounds how many ask at a time.
const asksAtATime = 32

// reached asks for each mapping from each machine, and returns who answers.
func (k *hostSoak) reached() map[string]string {
	k.Helper()
	got := map[string]string{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	places := make(chan struct{}, asksAtATime)
	for _, from := range []*lab.NS{k.top.Client, k.top.Host, k.top.Backend1, k.top.Far} {
		for _, addr := range []string{"192.0.2.1", "192.0.2.77", "2001:db8:1::1", "2001:db8:1::77", "127.0.0.1"} {
			for _, network := range []string{"tcp", "udp"} {
				for port := 8080; port <= 8086; port++ {
					address := at(netip.MustParseAddr(addr), port)
					places <- struct{}{}
					asking.Go(func() {
						defer func() { <-places }()
						ctx, cancel := context.WithTimeout(k.Context(), labtest.Stretch(time.Second))
						defer cancel()
						name, _, err := lab.Ask(ctx, from, network, address, netip.AddrPort{})
						if err != nil {
							name = "nobody"
						}
						mu.Lock()
						defer mu.Unlock()
						got[fmt.Sprintf("%s, %s %s", from, network, address)] = name
					})
				}
			}
		}
	}
	asking.Wait()
	return got
}

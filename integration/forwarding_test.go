// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// changed lists the sysctls that have changed: "key: old new".
func changed(before, now map[string]string) []string {
	lines := []string{}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if before[key] != now[key] {
			lines = append(lines, key+": "+before[key]+" "+now[key])
		}
	}
	return lines
}

// byForwarding4 are the sysctls that the kernel itself changes when ip_forward is
// turned on (devinet_sysctl_forward and inet_forward_change in net/ipv4/devinet.c).
func byForwarding4(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		key, _, _ := strings.Cut(line, ":")
		return strings.HasPrefix(key, "ipv4/conf/") && strings.HasSuffix(key, "/forwarding") || key == "ipv4/conf/all/accept_redirects"
	})
}

// The first mapping of a family turns on its forwarding, and changes nothing else in
// /proc/sys. The interfaces of an IPv6 host still accept router advertisements.
func TestForwarding(t *testing.T) {
	top := newTopology(t, lab.Options{})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	before := sysctls(t, top.Host)
	_, single := before["ipv6/conf/all/force_forwarding"]
	var log logBuffer
	e := open(t, top.Host, engine.Options{Log: log.logger()})
	require.Empty(t, changed(before, sysctls(t, top.Host)))
	publish(t, e, "127.0.0.1:8080->172.30.0.2:80", "[::1]:8080->[fd00:30::2]:80")
	require.Empty(t, changed(before, sysctls(t, top.Host)), "nothing is forwarded for loopback frontends")
	require.Empty(t, log.String())

	publish(t, e, "0.0.0.0:8081->172.30.0.2:80")
	require.Equal(t, []string{"ipv4/ip_forward: 0 1"}, byForwarding4(changed(before, sysctls(t, top.Host))))
	require.Contains(t, log.String(), "ip_forward")
	labtest.Reaches(t, top.Client, "tcp", at(top.Host.V4, 8081), "web")

	log = logBuffer{}
	with4 := sysctls(t, top.Host)
	publish(t, e, "[::]:8081->[fd00:30::2]:80")
	labtest.Reaches(t, top.Client, "tcp", at(top.Host.V6, 8081), "web")
	with6 := sysctls(t, top.Host)
	if single {
		require.Equal(t, []string{
			"ipv6/conf/br0/force_forwarding: 0 1", "ipv6/conf/far0/force_forwarding: 0 1", "ipv6/conf/lan0/force_forwarding: 0 1",
		}, changed(with4, with6))
		require.Equal(t, 3, strings.Count(log.String(), "force_forwarding"))
	} else {
		require.Equal(t, "1", with6["ipv6/conf/all/forwarding"])
		require.Contains(t, log.String(), "router advertisements")
	}

	// They stay, because other programs may need them by now.
	log = logBuffer{}
	publish(t, e, "8082->172.30.0.2:80", "8083->[fd00:30::2]:80")
	unpublish(t, e, "8082->172.30.0.2:80", "8083->[fd00:30::2]:80")
	require.NoError(t, e.Purge(t.Context()))
	require.Empty(t, changed(with6, sysctls(t, top.Host)))
	require.Empty(t, log.String())
}

// Forwarding that is on already is not changed or reported.
func TestForwardingOnAlready(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	before := sysctls(t, top.Host)
	var log logBuffer
	e := open(t, top.Host, engine.Options{Log: log.logger()})
	publish(t, e, "0.0.0.0:8081->172.30.0.2:80", "[::]:8081->[fd00:30::2]:80")
	require.Empty(t, changed(before, sysctls(t, top.Host)))
	require.Empty(t, log.String())
}

// With NoSysctl forwarding is not turned on, and only the host's own clients reach what is
// published.
func TestNoSysctl(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	before := sysctls(t, top.Host)
	e := open(t, top.Host, engine.Options{NoSysctl: true})
	publish(t, e, "0.0.0.0:8080->172.30.0.2:80", "[::]:8080->[fd00:30::2]:80")
	require.Empty(t, changed(before, sysctls(t, top.Host)))
	for _, f := range families(top) {
		labtest.Reaches(t, top.Host, "tcp", at(f.host, 8080), "web")
		require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", at(f.host, 8080)))
	}
	require.NoError(t, top.SetForwarding(true))
	for _, f := range families(top) {
		labtest.Reaches(t, top.Client, "tcp", at(f.host, 8080), "web")
	}
}

// A change that fails after it has turned forwarding on turns it off again.
func TestForwardingUndone(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	first := open(t, top.Host, engine.Options{NoSysctl: true})
	publish(t, first, "127.0.0.1:7000->172.30.0.2:70", "[::1]:7001->[fd00:30::2]:70")
	require.NoError(t, first.Close())
	before := takeSnapshot(t, top.Host)

	var steps []string
	var during map[string]string
	e := open(t, top.Host, engine.Options{Trace: func(step string) {
		if steps = append(steps, step); step == "commit" && during == nil {
			during = sysctls(t, top.Host)
			// Another program already has one of the ports.
			nft(t, top.Host, "add", "element", "inet", "nftnat", `tcp4 { 8080 comment "faster" : 172.30.0.3 . 80 }`)
		}
	}})
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, mappings(t, "8080->172.30.0.2:80", "8081->[fd00:30::2]:80")...)
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "faster", conflict.Have.Name)
	require.Equal(t, []string{"adopt", "reserve", "forward", "commit", "adopt", "reserve"}, steps)
	require.Equal(t, "1", during["ipv4/ip_forward"])
	require.Empty(t, changed(before.sysctls, sysctls(t, top.Host)))
	nft(t, top.Host, "delete", "element", "inet", "nftnat", "tcp4 { 8080 }")
	require.NoError(t, e.Close())
	require.NoError(t, open(t, top.Host, engine.Options{}).Close()) // the segment of the other program's port goes
	before.unchanged(t, top.Host)
	require.Equal(t, []string{"127.0.0.1:7000->172.30.0.2:70", "[::1]:7001->[fd00:30::2]:70"}, published(open(t, top.Host, engine.Options{ReadOnly: true})))
}

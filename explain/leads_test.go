// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// TestLeads: where eBPF leads sockets of this host to the backend, no packet asks for the frontend, and what stops the one to the
// backend is named. What eBPF leaves alone goes by the proxy.
func TestLeads(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.leads = true
	r := s.ask(t, "8080 from 127.0.0.1")
	require.Equal(t, Passes, r.Verdict, "%s", r.Text())
	require.Equal(t, ByBPF, r.Path, "%s", r.Text())

	output := table(unix.NFPROTO_INET, "corpwall", "outgoing", unix.NF_INET_LOCAL_OUT, 0)
	s.rules.stop = dropAt(output, nil, eval.Output, func(p *eval.Packet) bool { return request(p) && p.DstPort == 8080 })
	r = s.ask(t, "8080 from 127.0.0.1")
	require.Equal(t, Passes, r.Verdict, "%s", r.Text())
	s.rules.stop = dropAt(output, nil, eval.Output, func(p *eval.Packet) bool { return request(p) && p.DstPort == 80 })
	r = s.stopped(t, "8080 from 127.0.0.1", KindPolicy, "table inet corpwall, chain outgoing")
	require.Contains(t, r.Cause.What, "the connection of this host")
	s.rules.stop = nil

	s.mapping.NoProxy = true
	s.stopped(t, "8080 from 127.0.0.1", KindTable, "table inet nftnat")
	s.mapping.NoProxy = false
	r = s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, ByNetfilter, r.Path)
}

// TestLeadsPorts: a port of a range has no socket where eBPF leads what comes to it to the proxy.
func TestLeadsPorts(t *testing.T) {
	s := newScene(t, "10000-60000->172.30.0.2:10000-60000")
	s.stopped(t, "15000 from 2001:db8::2", KindTable, "table inet nftnat")
	s.leadsPorts = &host.Process{PID: 12, Command: "nftnat"}
	r := s.ask(t, "15000 from 2001:db8::2")
	require.Equal(t, Passes, r.Verdict, "%s", r.Text())
	require.Equal(t, ByProxy, r.Path, "%s", r.Text())
	require.Contains(t, r.Text(), `proxy, by eBPF: tcp [2001:db8::1]:15000 users:(("nftnat",pid=12))`)
	require.Equal(t, Passes, s.ask(t, "192.0.2.1:15000 from 127.0.0.1").Verdict, "a source that no packet is translated for")

	s.leadsPorts.PID = stoppedPID
	s.stopped(t, "15000 from 2001:db8::2", KindSocket, "nftnat")
	s.mapping.NoProxy = true
	s.stopped(t, "15000 from 2001:db8::2", KindTable, "table inet nftnat")
}

// TestLeadsPortsUDP: over UDP, ports that the kernel gives to clients are not led to the proxy.
func TestLeadsPortsUDP(t *testing.T) {
	s := newScene(t, "30000-60999->172.30.0.2:30000-60999/udp")
	s.leadsPorts = &host.Process{PID: 12, Command: "nftnat"}
	require.Equal(t, Passes, s.ask(t, "32767 from 2001:db8::2").Verdict)
	for _, port := range []string{"32768", "40000", "60999"} {
		r := s.stopped(t, port+" from 2001:db8::2", KindTable, "table inet nftnat")
		require.Contains(t, r.Text(), "ip_local_port_range")
	}
}

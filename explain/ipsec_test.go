// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// Policies of IPsec see what comes in as it was before its translation.
func TestIPsec(t *testing.T) {
	for _, c := range []struct {
		name    string
		dir     host.XFRMDir
		dst     string
		policy  host.XFRMPolicy
		verdict Verdict
		answer  bool
	}{
		{"request", host.XFRMForward, "192.0.2.1", host.XFRMPolicy{Blocks: true}, Stopped, false},
		{"answer", host.XFRMForward, "192.0.2.2", host.XFRMPolicy{Dir: host.XFRMForward, Encrypts: true}, Stopped, true},
		{"to the backend", host.XFRMOut, "172.30.0.2", host.XFRMPolicy{Dir: host.XFRMOut, Blocks: true}, Stopped, false},
		{"encrypted", host.XFRMOut, "172.30.0.2", host.XFRMPolicy{Dir: host.XFRMOut, Encrypts: true}, Uncertain, false},
		{"of others", host.XFRMForward, "192.0.2.9", host.XFRMPolicy{Blocks: true}, Passes, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			c.policy.Text = "dir " + c.dir.String()
			s.xfrm = func(dir host.XFRMDir, q host.RouteQuery) *host.XFRMPolicy {
				if dir != c.dir || q.Dst.String() != c.dst {
					return nil
				}
				return &c.policy
			}
			r := s.ask(t, "8080 from 192.0.2.2")
			require.Equal(t, c.verdict, r.Verdict, r.Text())
			if c.verdict == Passes {
				return
			}
			require.Equal(t, KindIPsec, r.Cause.Kind)
			require.Equal(t, c.answer, r.Cause.Answer)
		})
	}
}

// Programs of eBPF at hooks of netfilter cannot be read.
func TestPrograms(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.programs = []host.NFProgram{{Program: 7, Family: unix.NFPROTO_IPV6, Hook: unix.NF_INET_FORWARD}, {Program: 8, Family: unix.NFPROTO_IPV4, Hook: unix.NF_INET_LOCAL_OUT}}
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict, "for others")
	s.programs[0].Family = unix.NFPROTO_IPV4
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Uncertain, r.Verdict)
	require.Contains(t, r.Cause.Thing, "program 7 of eBPF at hook forward")
}

// If rules change while they are read they are read again, a few times.
func TestChanges(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.rules.changes = readAttempts - 1
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict)
	s.rules.changes = readAttempts
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Uncertain, r.Verdict)
	require.Equal(t, KindUnread, r.Cause.Kind)
}

// What stops a packet behind rules that may have led it elsewhere is not certain.
func TestLost(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.rules.err = errors.New("out of memory")
	r := s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Uncertain, r.Verdict, r.Text())
	require.Equal(t, KindUnread, r.Cause.Kind)

	s = newScene(t, "8080->172.30.0.2:80")
	odd := table(unix.NFPROTO_INET, "odd", "pre", unix.NF_INET_PRE_ROUTING, -150)
	s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
		if h != eval.Prerouting || !request(p) {
			return nil
		}
		return []eval.Outcome{{End: eval.Unclear, Packet: *p, Chain: odd, If: []eval.Unknown{{Reason: "an expression"}}}}
	}
	r = s.ask(t, "8080 from 192.0.2.2")
	require.Equal(t, Uncertain, r.Verdict, r.Text())
}

// Filters of a link without headers see packets without them.
func TestFiltersOfTunnels(t *testing.T) {
	s := newScene(t, "8080->172.30.0.2:80")
	s.links[eth0-1].Type = unix.ARPHRD_NONE
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.2").Verdict)
}

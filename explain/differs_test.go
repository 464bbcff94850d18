// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
)

// Cases in which real packets met something else than was said: random ones of internal/difftest, made
// small.

// An answer that connection tracking does not see is not translated back, to this host as elsewhere.
func TestAnswerIsUntracked(t *testing.T) {
	for _, from := range []string{"192.0.2.2", "192.0.2.1"} {
		s := newScene(t, "8080->172.30.0.2:80")
		s.rules.stop = func(h eval.Hook, p *eval.Packet) []eval.Outcome {
			if h != eval.Prerouting || !answer(p) {
				return nil
			}
			q := *p
			q.CT.Untracked = true
			return []eval.Outcome{{End: eval.Accepted, Packet: q}}
		}
		s.stopped(t, "8080 from "+from, KindConntrack, "connection tracking")
	}
}

// The third packet of TCP is the one that makes its connection assured.
func TestThirdPacketIsAssured(t *testing.T) {
	forward := table(unix.NFPROTO_INET, "corpwall", "passing", unix.NF_INET_FORWARD, 0)
	s := newScene(t, "8080->172.30.0.2:80")
	s.rules.stop = dropAt(forward, nil, eval.Forward, func(p *eval.Packet) bool { return p.CT.Status&eval.Assured != 0 })
	s.stopped(t, "8080 from 192.0.2.2", KindPolicy, "table inet corpwall, chain passing")
}

// What the host sends to an address of its own leaves the output hook by lo, the third packet too.
func TestThirdPacketOfHost(t *testing.T) {
	output := table(unix.NFPROTO_INET, "corpwall", "leaving", unix.NF_INET_LOCAL_OUT, -150)
	s := newScene(t, "8080->172.30.0.2:80")
	s.rules.stop = dropAt(output, nil, eval.Output, func(p *eval.Packet) bool { return later(p) && p.Out.Name != "lo" })
	require.Equal(t, Passes, s.ask(t, "8080 from 192.0.2.1").Verdict)
	s.rules.stop = dropAt(output, nil, eval.Output, func(p *eval.Packet) bool { return later(p) && p.Out.Name == "lo" })
	s.stopped(t, "8080 from 192.0.2.1", KindPolicy, "table inet corpwall, chain leaving")
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// Attributes of connection tracking: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaTimeout    = 7
	// IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED: such entries are not given up for new ones.
	assured = 2 | 4 | 8
)

func appendFlowTuple(b []byte, typ uint16, src, dst uint32, sport, dport uint16) []byte {
	b, tuple := nlwire.OpenAttr(b, typ|unix.NLA_F_NESTED)
	b, ip := nlwire.OpenAttr(b, 1|unix.NLA_F_NESTED)
	b = nlwire.AppendBE32(b, 1, src)
	b = nlwire.AppendBE32(b, 2, dst)
	b = nlwire.CloseAttr(b, ip)
	b, proto := nlwire.OpenAttr(b, 2|unix.NLA_F_NESTED)
	b = nlwire.AppendAttr(b, 1, unix.IPPROTO_UDP)
	b = nlwire.AppendAttr(b, 2, binary.BigEndian.AppendUint16(nil, sport)...)
	b = nlwire.AppendAttr(b, 3, binary.BigEndian.AppendUint16(nil, dport)...)
	b = nlwire.CloseAttr(b, proto)
	return nlwire.CloseAttr(b, tuple)
}

// fillConntrack makes as many assured entries as a namespace may have, and takes the room of those that
// end until the test does.
func fillConntrack(t *testing.T, ns *lab.NS) {
	t.Helper()
	limit, err := ns.ReadSysctl("net.netfilter.nf_conntrack_max")
	require.NoError(t, err)
	n, err := strconv.Atoi(limit)
	require.NoError(t, err)
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer f.Close()
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: int(f.Fd())})
	require.NoError(t, err)
	made := 0
	answer := make([]byte, nlwire.LargestDatagram)
	// The answer is that of the last entry, or of one for which there is no room.
	more := func(count int) error {
		if err := s.Send(appendFlows(nil, made, count)); err != nil {
			return err
		}
		made += count
		_, err := s.Receive(answer, true)
		return err
	}
	const batch = 300
	for made < n {
		require.NoError(t, more(batch))
	}
	var filling sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	var failed error
	filling.Go(func() {
		for ctx.Err() == nil && failed == nil {
			failed = more(1)
			time.Sleep(time.Millisecond)
		}
	})
	t.Cleanup(func() {
		cancel()
		filling.Wait()
		require.NoError(t, errors.Join(failed, s.Close()))
	})
}

// appendFlows appends requests to make assured entries, from the first one on. The last is acknowledged.
func appendFlows(b []byte, first, count int) []byte {
	const clients, server = 10 << 24, 203<<24 | 113<<8 | 1
	for i := first; i < first+count; i++ {
		flags := uint16(unix.NLM_F_CREATE)
		if i == first+count-1 {
			flags |= unix.NLM_F_ACK
		}
		var at int
		b, at = nlwire.OpenNetfilter(b, unix.NFNL_SUBSYS_CTNETLINK<<8, flags, unix.AF_INET, 0, uint32(i))
		src := uint32(clients + i)
		b = appendFlowTuple(b, ctaTupleOrig, src, server, 1000, 2000)
		b = appendFlowTuple(b, ctaTupleReply, server, src, 2000, 1000)
		b = nlwire.AppendBE32(b, ctaStatus, assured)
		b = nlwire.AppendBE32(b, ctaTimeout, 3600)
		b = nlwire.CloseMessage(b, at)
	}
	return b
}

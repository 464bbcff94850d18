// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/nlwire"
	nftables "github.com/nftnat/nftnat/nft"
)

// generation is the number of transactions that the namespace has seen.
func generation(t *testing.T, ns *lab.NS) uint32 {
	t.Helper()
	var n uint32
	err := ns.Do(func() error {
		c, err := nftables.Dial(nil)
		if err != nil {
			return err
		}
		if n, err = c.Generation(); err != nil {
			return err
		}
		return c.Close()
	})
	require.NoError(t, err)
	return n
}

// tableChanges are the notifications of what changes in a namespace's rulesets.
type tableChanges struct{ socket *nlwire.Socket }

func watchTable(t *testing.T, ns *lab.NS) *tableChanges {
	t.Helper()
	c := &tableChanges{}
	require.NoError(t, ns.Do(func() (err error) {
		c.socket, err = nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1), ReceiveBuffer: 16 << 20})
		return err
	}))
	t.Cleanup(func() { _ = c.socket.Close() })
	return c
}

// await waits for a change of a table, which must come.
func (c *tableChanges) await(t *testing.T, table string) {
	t.Helper()
	require.NoError(t, c.socket.SetReadDeadline(time.Now().Add(answerTimeout)))
	for buf, came := make([]byte, nlwire.LargestDatagram), false; !came; {
		n, err := c.socket.Receive(buf, true)
		require.NoError(t, err)
		for m := (nlwire.Messages{Data: buf[:n]}); m.Next(); {
			came = came || nlwire.FindString(m.Attrs(nlwire.NetfilterHeader).Data, unix.NFTA_TABLE_NAME) == table
		}
	}
}

// once checks that one transaction has changed the table nftnat since the last call, and ends the
// watch.
func (c *tableChanges) once(t *testing.T) {
	t.Helper()
	transactions, concerned := 0, false
	for buf := make([]byte, nlwire.LargestDatagram); ; {
		n, err := c.socket.Receive(buf, false)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		require.NoError(t, err)
		for m := (nlwire.Messages{Data: buf[:n]}); m.Next(); {
			switch {
			case m.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN:
				if concerned {
					transactions++
				}
				concerned = false
			case nlwire.FindString(m.Attrs(nlwire.NetfilterHeader).Data, unix.NFTA_TABLE_NAME) == "nftnat":
				concerned = true
			}
		}
	}
	require.Equal(t, 1, transactions, "transactions of the table")
	require.NoError(t, c.socket.Close())
}

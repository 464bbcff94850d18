// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// rawElement is an element of one of nftnat's maps, or without a value of a set, with any
// user data, also such as nft(8) would neither write nor read. It is encoded here because
// package nft refuses to.
type rawElement struct {
	set        string
	key, value []byte
	userdata   []byte
}

// nftaSetElemUserdata is NFTA_SET_ELEM_USERDATA of enum nft_set_elem_attributes.
const nftaSetElemUserdata = 6

// writeElement adds the element by a netlink message of its own.
func writeElement(t *testing.T, ns *lab.NS, e rawElement) {
	t.Helper()
	attributes, err := e.encode()
	require.NoError(t, err)
	writeRaw(t, ns, unix.NFT_MSG_NEWSETELEM, attributes)
}

// writeRaw sends a transaction of one message with the attributes.
func writeRaw(t *testing.T, ns *lab.NS, message netlink.HeaderType, attributes []byte) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		return errors.Join(sendRaw(c, message, attributes), c.Close())
	}))
}

// writeChain makes a chain of any name in nftnat's table.
func writeChain(t *testing.T, ns *lab.NS, name string) {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_CHAIN_TABLE, "nftnat")
	ae.String(unix.NFTA_CHAIN_NAME, name)
	attributes, err := ae.Encode()
	require.NoError(t, err)
	writeRaw(t, ns, unix.NFT_MSG_NEWCHAIN, attributes)
}

func sendRaw(c *netlink.Conn, message netlink.HeaderType, attributes []byte) error {
	// struct nfgenmsg: family, version, resource.
	batch := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES)
	_, err := c.SendMessages([]netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request, Sequence: 1}, Data: batch},
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | message,
				Flags: netlink.Request | netlink.Create | netlink.Acknowledge, Sequence: 2,
			},
			Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attributes...),
		},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request, Sequence: 3}, Data: batch},
	})
	if err != nil {
		return err
	}
	_, err = c.Receive()
	return err
}

func (e rawElement) encode() ([]byte, error) {
	value := func(b []byte) func(*netlink.AttributeEncoder) error {
		return func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(unix.NFTA_DATA_VALUE, b)
			return nil
		}
	}
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, "nftnat")
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, e.set)
	ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		list.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
			element.Nested(unix.NFTA_SET_ELEM_KEY, value(e.key))
			if e.value != nil {
				element.Nested(unix.NFTA_SET_ELEM_DATA, value(e.value))
			}
			element.Bytes(nftaSetElemUserdata, e.userdata)
			return nil
		})
		return nil
	})
	return ae.Encode()
}

// asComment returns user data with a comment in libnftnl's form: type, length, value.
func asComment(s string) []byte { return append([]byte{0, byte(len(s))}, s...) }

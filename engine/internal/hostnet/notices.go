// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// notices are notifications of which it only matters whether there are any. Nobody waits for
// them.
type notices struct {
	socket *nlwire.Socket
}

// noticesBuffer is the size of the socket's buffer. What has no room is noticed as well.
const noticesBuffer = 4 << 10

// watchSettings watches links, addresses and the settings of interfaces of a namespace. The
// kernel has queued the notification of a change when the change returns.
func watchSettings(ns *Namespace) (*notices, error) {
	s, err := nlwire.Dial(nlwire.Config{
		Protocol: unix.NETLINK_ROUTE, NetNS: ns.FD(), ReceiveBuffer: noticesBuffer,
		Groups: group(unix.RTNLGRP_LINK) | group(unix.RTNLGRP_IPV4_IFADDR) | group(unix.RTNLGRP_IPV6_IFADDR) |
			group(unix.RTNLGRP_IPV4_NETCONF) | group(unix.RTNLGRP_IPV6_NETCONF),
	})
	if err != nil {
		return nil, fmt.Errorf("watch settings: %w", err)
	}
	return &notices{s}, nil
}

// mostNotices bounds how many are read at a time. The next call goes on.
const mostNotices = 256

// some reports whether there may have been notifications since the last call. A nil *notices
// has none.
func (n *notices) some() bool {
	if n == nil {
		return false
	}
	var start [1]byte // that the rest does not fit is an error like any other
	for i := range mostNotices {
		if _, err := n.socket.Receive(start[:], false); errors.Is(err, unix.EAGAIN) {
			return i != 0
		}
	}
	return true
}

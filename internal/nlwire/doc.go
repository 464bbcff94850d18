// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nlwire is netlink on the wire: it appends and walks messages and attributes in
// place, reads the kernel's acknowledgements, and sends and receives datagrams.
//
// A message is opened, filled by the caller and closed; so is an attribute:
//
//	b, at := nlwire.OpenMessage(nil, unix.RTM_GETLINK, 0, seq)
//	b = append(b, make([]byte, unix.SizeofIfInfomsg)...) // the family's own header
//	b = nlwire.AppendString(b, unix.IFLA_IFNAME, "eth0")
//	b = nlwire.CloseMessage(b, at)
//
// [Messages] walks the messages of a datagram, [Attrs] the attributes of a message or of
// another attribute. Both stop at data that is cut short, and say so in Err.
//
// Values are for one goroutine at a time, but for a [Socket].
package nlwire

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package lan has the sockets on which a gateway serves its LAN, and nobody else. Each is bound to a
// device, and what comes from there is looked at once more: it has to have arrived on the device, from
// an address that is on link there, to an address of the device or a group that was joined. Sources that
// send too much are not heard. What is refused is counted and nothing else: a datagram costs no line of a log.
//
// Devices and addresses are followed over rtnetlink. They may come and go; a device that
// was made anew gets new sockets, for which no privilege is needed.
package lan

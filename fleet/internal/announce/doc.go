// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package announce puts addresses on an interface for a time that the kernel ends by itself,
// and tells the neighbours that they are there.
//
//	i, err := announce.Open("eth0")
//	...
//	err = i.Set(addr, 4*time.Second) // again before they have passed
//	err = i.Announce(addr)
//
// The time is what makes an address safe to move: whatever becomes of the process that has
// set it (killed, stopped, hung), the kernel removes it within half a second after that time.
// An address that something else has put on the host is never changed or removed.
//
// CAP_NET_ADMIN and CAP_NET_RAW are needed.
package announce

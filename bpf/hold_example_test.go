// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
)

// TCP ports 10000 to 60000 of all addresses are kept from other programs, and port 20000 is given back.
func ExampleHold() {
	group, err := bpf.RootGroup()
	if err != nil {
		fmt.Println(err)
		return
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err = errors.Join(err, unix.Close(socket)); err != nil {
		fmt.Println(err)
		return
	}
	held, err := bpf.OpenHold(bpf.HoldOptions{Group: int(group.Fd()), NetNS: cookie})
	if err = errors.Join(err, group.Close()); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(errors.Join(
		held.Add(bpf.Range{Proto: unix.IPPROTO_TCP, First: 10000, Last: 60000}),
		held.Remove(bpf.Range{Proto: unix.IPPROTO_TCP, First: 20000, Last: 20000}),
		held.Close(),
	))
}

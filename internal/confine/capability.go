// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Capability is a capability's number (include/uapi/linux/capability.h).
type Capability uint8

// The capabilities that a daemon of sockets and netfilter may want.
const (
	DACOverride    Capability = unix.CAP_DAC_OVERRIDE
	NetAdmin       Capability = unix.CAP_NET_ADMIN
	NetBindService Capability = unix.CAP_NET_BIND_SERVICE
	SysAdmin       Capability = unix.CAP_SYS_ADMIN
)

// String is the name as capabilities(7) has it.
func (c Capability) String() string {
	names := map[Capability]string{
		DACOverride: "CAP_DAC_OVERRIDE", NetAdmin: "CAP_NET_ADMIN",
		NetBindService: "CAP_NET_BIND_SERVICE", SysAdmin: "CAP_SYS_ADMIN",
	}
	if name := names[c]; name != "" {
		return name
	}
	return fmt.Sprintf("capability %d", uint8(c))
}

// capabilitySets is what the third version of capset(2) takes: 64 bits of each set.
type capabilitySets [2]unix.CapUserData

// keepCapabilities drops all capabilities but some, and returns those that are left.
func keepCapabilities(keep []Capability) ([]Capability, error) {
	var have, want capabilitySets
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // Pid 0: the calling thread
	if err := unix.Capget(&header, &have[0]); err != nil {
		return nil, err
	}
	var left []Capability
	for _, c := range keep {
		word, bit := c/32, uint32(1)<<(c%32)
		if have[word].Permitted&bit != 0 {
			want[word].Permitted |= bit
			want[word].Effective |= bit
			left = append(left, c)
		}
	}
	// First, since it needs a capability (CAP_SETPCAP).
	if err := boundCapabilities(keep); err != nil {
		return nil, err
	}
	// Capabilities that are not inheritable leave the ambient set as well (capabilities(7)).
	err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want)))
	if err != nil {
		return nil, err
	}
	slices.Sort(left)
	return left, nil
}

// boundCapabilities drops the other capabilities from the bounding set. A process that may not do
// that keeps the set: it can execute nothing that would gain from it.
func boundCapabilities(keep []Capability) error {
	for c := Capability(0); ; c++ {
		is, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // the kernel has no more
			return nil
		}
		if err != nil {
			return err
		}
		if is == 0 || slices.Contains(keep, c) {
			continue
		}
		err = allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// findHolder returns the error for a port that could not be bound: it looks up the socket
// that holds the port, which may be closed by now, and its process.
func (e *core) findHolder(p portset.Port) error {
	held := &nat.HeldError{Want: p.Mapping()}
	s, err := hostnet.FindSocket(e.namespace, p.Proto, func(at netip.AddrPort) bool { return blockedBy(p.Frontend, at) })
	if err != nil {
		return fmt.Errorf("%w (who has it cannot be told: %w)", held, err)
	}
	held.Address, held.Ended = s.Addr, s.Ended
	if s.Addr.IsValid() && !s.Ended {
		held.Inode, held.UID = s.Inode, s.UID
		held.PID, held.Command = ProcessOf(s.Inode)
	}
	return held
}

// blockedBy reports whether a socket at the address prevents binding the frontend.
func blockedBy(f portset.Frontend, at netip.AddrPort) bool {
	mine, theirs := f.AddrPort.Addr(), at.Addr()
	switch {
	case at.Port() != f.AddrPort.Port():
		return false
	case !mine.IsValid(), mine == theirs:
		return true
	case theirs == netip.IPv6Unspecified(): // which may take IPv4 as well
		return true
	}
	return mine.Is4() == theirs.Is4() && (mine.IsUnspecified() || theirs.IsUnspecified())
}

// ProcessOf names a process that has the socket of that inode open, by the links of
// /proc/PID/fd (proc(5)). Those of other users, and of processes with more capabilities,
// can be seen with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH. A pid of zero: none was
// found.
func ProcessOf(inode uint32) (pid int, command string) {
	if inode == 0 {
		return 0, ""
	}
	link := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, ""
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join("/proc", p.Name(), "fd"))
		if err != nil {
			continue // gone, or not ours to look at
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join("/proc", p.Name(), "fd", fd.Name())); err == nil && to == link {
				comm, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
				return pid, nat.HarmlessName(strings.TrimSpace(string(comm)))
			}
		}
	}
	return 0, ""
}

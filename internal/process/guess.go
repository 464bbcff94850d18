// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// manyFiles is from how many files on the place of a socket among them is guessed. Reading all
	// links of 60,000 takes a quarter of a second.
	manyFiles = 2048
	// aside is how far from the guess it is looked for: each processor takes numbers of inodes a
	// thousand at a time (get_next_ino in fs/inode.c).
	aside = 4096
)

// guess reports whether a process with very many files has the socket at about the place where
// it would be if the files were opened one after the other: then the numbers of their inodes grow
// with those of the descriptors. If it is elsewhere, guess does not find it.
func (s *search) guess(process string) bool {
	wanted, ok := socketInode(s.socket)
	if !ok || openFiles(process) < manyFiles {
		return false
	}
	size := tableSize(process)
	low, high := 0, size
	for high-low > 1 {
		mid := (low + high) / 2
		inode, ok := s.nextInode(process, mid, high)
		switch {
		case inode == wanted:
			return true
		case ok && inode < wanted:
			low = mid
		default: // no file is open so high, or one that was opened later
			high = mid
		}
	}
	for d := range aside {
		for _, fd := range []int{low + d, low - d} {
			if fd >= 0 && s.link(process, fd) == s.socket {
				return true
			}
		}
	}
	return false
}

// nextInode returns the inode of the first of a few descriptors that is a socket.
func (s *search) nextInode(process string, fd, end int) (inode uint64, ok bool) {
	for end = min(end, fd+8); fd < end && !ok; fd++ {
		inode, ok = socketInode(s.link(process, fd))
	}
	return inode, ok
}

func (s *search) link(process string, fd int) string {
	to, _ := os.Readlink(filepath.Join(process, "fd", strconv.Itoa(fd)))
	return to
}

// socketInode returns the inode in the link of a socket.
func socketInode(link string) (uint64, bool) {
	number, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return n, err == nil
}

// openFiles returns how many descriptors a process has; 0: it is not known. Since Linux 6.2 that
// is the size of the directory.
func openFiles(process string) int64 {
	info, err := os.Stat(filepath.Join(process, "fd"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// tableSize returns how many descriptors a process has room for (proc_pid_status(5)); 0: it is
// not known.
func tableSize(process string) int {
	status, _ := os.ReadFile(filepath.Join(process, "status"))
	_, rest, found := bytes.Cut(status, []byte("\nFDSize:"))
	if !found {
		return 0
	}
	number, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.Atoi(string(bytes.TrimSpace(number)))
	return n
}

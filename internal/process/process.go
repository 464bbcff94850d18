// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Find finds a process that has the socket of that inode open, by the links of
// /proc/PID/fd (proc(5)). none is true if it is certain that there is none: all processes
// could be seen. Those of other users, and of processes with more capabilities, can be seen
// with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
func Find(inode uint32) (pid int, command string, none bool) {
	if inode == 0 {
		return 0, "", false
	}
	s := search{root: "/proc", socket: "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"}
	if pid = s.run(false); pid == 0 && s.whole && seesAll(s.root) {
		// Threads may have files of their own.
		pid = s.run(true)
		none = pid == 0 && s.whole
	}
	if pid != 0 {
		comm, _ := os.ReadFile(filepath.Join(s.root, strconv.Itoa(pid), "comm"))
		command = strings.TrimSpace(string(comm))
	}
	return pid, command, none
}

// search looks for a socket through the processes of /proc.
type search struct {
	root, socket string
	// whole is whether the last run has seen the files of all processes that are listed.
	whole bool
}

// run returns the first process that has the socket; zero: none. With thorough it looks at
// each thread, and at files that only an io_uring has.
func (s *search) run(thorough bool) int {
	s.whole = true
	for _, pid := range s.numbers(s.root) {
		dirs := []string{filepath.Join(s.root, pid, "fd")}
		if thorough {
			dirs = nil
			for _, tid := range s.numbers(filepath.Join(s.root, pid, "task")) {
				dirs = append(dirs, filepath.Join(s.root, pid, "task", tid, "fd"))
			}
		}
		for _, dir := range dirs {
			if !thorough && s.guess(filepath.Join(s.root, pid)) || s.has(dir, thorough) {
				n, _ := strconv.Atoi(pid)
				return n
			}
		}
	}
	return 0
}

// numbers lists the entries of a directory that are numbers.
func (s *search) numbers(dir string) []string {
	entries, err := os.ReadDir(dir)
	s.note(err)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			names = append(names, e.Name())
		}
	}
	return names
}

// note notes an error, unless the process has ended meanwhile.
func (s *search) note(err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		s.whole = false
	}
}

// has reports whether a directory of open files has the socket.
func (s *search) has(dir string, thorough bool) bool {
	fds, err := os.ReadDir(dir)
	s.note(err)
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(dir, fd.Name()))
		s.note(err)
		switch {
		case to == s.socket:
			return true
		case thorough && to == "anon_inode:[io_uring]":
			info, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "fdinfo", fd.Name()))
			s.note(err)
			if slices.Contains(strings.Fields(string(info)), s.socket) {
				return true
			}
		}
	}
	return false
}

// What /proc/self/ns/pid and /proc/self/ns/user are outside of containers
// (PROC_PID_INIT_INO and PROC_USER_INIT_INO in include/linux/proc_ns.h).
const (
	firstPIDNamespace  = "pid:[4026531836]"
	firstUserNamespace = "user:[4026531837]"
)

// SeesAll reports whether /proc lists all processes of this machine, and shows the files of each.
func SeesAll() bool { return seesAll("/proc") }

// seesAll reports whether /proc lists all processes of this machine: this one is in no
// container, and no option of the mount (hidepid) hides any from it.
func seesAll(root string) bool {
	pids, _ := os.Readlink(filepath.Join(root, "self/ns/pid"))
	users, _ := os.Readlink(filepath.Join(root, "self/ns/user"))
	if pids != firstPIDNamespace || users != firstUserNamespace {
		return false
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PathRule allows access to a file, or to a directory and everything below it.
type PathRule struct {
	Path string
	// Access is what is allowed there; zero: nothing.
	Access Access
}

// Access is what can be done with files, as rights of Landlock. Attributes can always be read
// (stat(2)). A right that is newer than the kernel's Landlock is not restricted.
type Access uint64

// The kinds of access, to be combined.
const (
	// Read opens files for reading.
	Read Access = unix.LANDLOCK_ACCESS_FS_READ_FILE
	// List opens directories.
	List Access = unix.LANDLOCK_ACCESS_FS_READ_DIR
	// Write opens existing files for writing.
	Write Access = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// Create makes regular files.
	Create Access = unix.LANDLOCK_ACCESS_FS_MAKE_REG
	// Remove removes all but directories. With Create, files are renamed within their
	// directory.
	Remove Access = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	// MakeSocket binds unix sockets to names.
	MakeSocket Access = unix.LANDLOCK_ACCESS_FS_MAKE_SOCK
)

// String returns the rights by their names, as in "read, write".
func (a Access) String() string {
	var names []string
	for _, r := range []struct {
		right Access
		name  string
	}{{Read, "read"}, {List, "list"}, {Write, "write"}, {Create, "create"}, {Remove, "remove"}, {MakeSocket, "make sockets"}} {
		if a&r.right == r.right {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, ", ")
}

// forFiles are the rights that a rule for a file, and not a directory, can have.
const forFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
	unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// rulesetAttr is struct landlock_ruleset_attr of the sixth version; older kernels take a shorter one.
type rulesetAttr struct {
	files, net, scoped uint64
	abi                int
}

// size is the length of the structure that the kernel knows.
func (a *rulesetAttr) size() uintptr {
	switch {
	case a.abi >= 6:
		return 3 * unsafe.Sizeof(a.files)
	case a.abi >= 4:
		return 2 * unsafe.Sizeof(a.files)
	}
	return unsafe.Sizeof(a.files)
}

// rulesetOf restricts all that a version of the interface can, except TCP ports, which are the
// process's work, and signals, which the filter of calls restricts: from 6.12 until an erratum was
// fixed, kernels refused them between threads that were restricted one by one, and Go's runtime
// sends such signals. Abstract unix sockets of others are out of reach.
func rulesetOf(abi int) *rulesetAttr {
	a := &rulesetAttr{abi: abi, files: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1} // the first version's
	if abi >= 2 {
		a.files |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		a.files |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		a.files |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		a.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return a
}

// restrictFiles puts a ruleset of files in force and returns the version of the
// interface.
func restrictFiles(files []PathRule) (abi int, err error) {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 { // ENOSYS: not built in; EOPNOTSUPP: not turned on
		return 0, fmt.Errorf("ask for Landlock: %w", e)
	}
	abi = int(version)
	attr := rulesetOf(abi)
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), attr.size(), 0)
	if e != 0 {
		return 0, fmt.Errorf("make Landlock ruleset: %w", e)
	}
	ruleset := int(fd)
	for _, f := range files {
		if err = allow(ruleset, f, attr.files); err != nil {
			break
		}
	}
	if err == nil {
		err = allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0)
	}
	if err = errors.Join(err, unix.Close(ruleset)); err != nil {
		return 0, fmt.Errorf("use Landlock: %w", err)
	}
	return abi, nil
}

// allow adds a rule to a ruleset. The descriptor of its path stays open for as long as the
// process lives: a rule is for an inode, and entries of /proc get another inode when nobody
// has had them open for a while.
func allow(ruleset int, r PathRule, handled uint64) error {
	fd, err := unix.Open(r.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", r.Path, err)
	}
	rights := uint64(r.Access) & handled
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("open %s: %w", r.Path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= forFiles
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("allow %s: %w", r.Path, e)
	}
	return nil
}

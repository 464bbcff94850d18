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

// Tree is a file, or a directory with all that is in it.
type Tree struct {
	Path string
	// Access is what can be done there; zero: nothing.
	Access Access
}

// Access is what can be done with files. Reading of attributes (stat(2)) always can.
type Access uint8

// The kinds of access, to be combined.
const (
	// Read opens files for reading.
	Read Access = 1 << iota
	// List opens directories.
	List
	// Write opens files that are there for writing.
	Write
	// Create makes regular files.
	Create
	// Remove removes whatever is no directory. With Create, files are renamed within
	// their directory.
	Remove
	// MakeSocket binds unix sockets to names.
	MakeSocket
)

// String returns what can be done: "read,list". Nothing is "none".
func (a Access) String() string {
	var words []string
	for i, word := range []string{"read", "list", "write", "create", "remove", "make sockets"} {
		if a&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ",")
}

// rights are what Landlock calls an access. A right that needs a newer interface than
// the kernel's is not restricted there, and so not asked for.
func (a Access) rights() uint64 {
	var r uint64
	for bit, right := range map[Access]uint64{
		Read: unix.LANDLOCK_ACCESS_FS_READ_FILE, List: unix.LANDLOCK_ACCESS_FS_READ_DIR,
		Write:  unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE,
		Create: unix.LANDLOCK_ACCESS_FS_MAKE_REG, Remove: unix.LANDLOCK_ACCESS_FS_REMOVE_FILE,
		MakeSocket: unix.LANDLOCK_ACCESS_FS_MAKE_SOCK,
	} {
		if a&bit != 0 {
			r |= right
		}
	}
	return r
}

// forFiles are the rights that can be given to what is no directory.
const forFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
	unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// rulesetAttr is struct landlock_ruleset_attr as far as all versions up to the sixth
// know it; older kernels take a shorter one.
type rulesetAttr struct {
	files, net, scoped uint64
	abi                int
}

// size is how much of it the kernel knows.
func (a *rulesetAttr) size() uintptr {
	switch {
	case a.abi >= 6:
		return 3 * unsafe.Sizeof(a.files)
	case a.abi >= 4:
		return 2 * unsafe.Sizeof(a.files)
	}
	return unsafe.Sizeof(a.files)
}

// rulesetOf is all that a version of the interface can refuse, but for TCP ports: which
// those are is what the process is for; sockets with abstract names that others listen on
// are out of reach. Signals are left to the filter of calls: kernels from 6.12 on refuse
// them between threads that were restricted one by one, until they had an erratum fixed,
// and Go's runtime sends them.
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
func restrictFiles(files []Tree) (abi int, err error) {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 { // ENOSYS: not built in; EOPNOTSUPP: not turned on
		return 0, fmt.Errorf("ask for Landlock: %w", e)
	}
	abi = int(version)
	attr := rulesetOf(abi)
	ruleset, err := createRuleset(attr)
	if err != nil {
		return 0, fmt.Errorf("make Landlock ruleset: %w", err)
	}
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

// allow adds a tree to a ruleset. Its descriptor stays open for as long as the process
// lives: the kernel knows a tree by its inode, and what is in /proc gets another one when
// nobody has had it open for a while.
func allow(ruleset int, f Tree, handled uint64) error {
	fd, err := unix.Open(f.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", f.Path, err)
	}
	rights := f.Access.rights() & handled
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("open %s: %w", f.Path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= forFiles
	}
	if err := addPath(ruleset, &unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}); err != nil {
		return fmt.Errorf("allow %s: %w", f.Path, err)
	}
	return nil
}

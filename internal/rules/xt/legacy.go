// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/rules"
)

// legacyFamily is where a family keeps its tables, and the layout of its entries
// (include/uapi/linux/netfilter_ipv4/ip_tables.h and others).
type legacyFamily struct {
	family   rules.Family
	names    string // in /proc/net
	module   string // that tables are made by, if it is one
	domain   int    // of a socket
	level    int    // of its options
	info     int    // the option IPT_SO_GET_INFO; IPT_SO_GET_ENTRIES is the next one
	hooks    int    // how many struct ipt_getinfo has
	header   int    // the length of struct ipt_ip
	fields   int    // where target_offset is
	counters int    // where struct xt_counters is, which matches follow
	flags    int    // where the flags are in the header; zero: there are none
	goes     uint8  // the flag of a goto
	chains   []string
}

// wide is how the kernel aligns 64 bits in a struct.
func wide(n int) int {
	if runtime.GOARCH == "386" {
		return n
	}
	return (n + 7) &^ 7
}

func legacyFamilies() []legacyFamily {
	inet := []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	return []legacyFamily{
		{unix.NFPROTO_IPV4, "ip_tables_names", "ip_tables", unix.AF_INET, unix.SOL_IP, 64, 5, headerLen(false), 88, 96, 82, ipGoto, inet},
		{unix.NFPROTO_IPV6, "ip6_tables_names", "ip6_tables", unix.AF_INET6, unix.SOL_IPV6, 64, 5, headerLen(true), 140, wide(148), 131, ip6Goto, inet},
		{
			unix.NFPROTO_ARP, "arp_tables_names", "arp_tables", unix.AF_INET, unix.SOL_IP, 96, 3, 164, 164, wide(172), 0, 0,
			[]string{"INPUT", "OUTPUT", "FORWARD"},
		},
	}
}

// LegacyTables reads the tables of iptables-legacy, ip6tables-legacy and arptables-legacy in a network
// namespace, by an open file descriptor; zero: that of the calling thread. It makes none. Those of ebtables-legacy
// are not among them: see [LegacyBridge]. The lists of tables are those of OpenLegacyLists, as far as they are of the namespace.
func LegacyTables(netNS int, lists ...*os.File) (tables []*rules.Table, err error) {
	read := func() (err error) { tables, err = legacyTables(lists); return err }
	if netNS == 0 {
		return tables, read()
	}
	return tables, netns.Do(netNS, read)
}

func legacyTables(lists []*os.File) ([]*rules.Table, error) {
	var tables []*rules.Table
	for _, f := range legacyFamilies() {
		names, err := f.tableNames(lists...)
		if err != nil {
			return nil, fmt.Errorf("list legacy tables: %w", err)
		}
		for _, name := range names {
			t, err := f.read(name)
			if err != nil {
				return nil, fmt.Errorf("read legacy table %s %s: %w", f.family, name, err)
			}
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// LegacyNames lists the legacy tables of a family that the calling thread's network namespace has. The error is
// [fs.ErrPermission] if there may be some, and the list may not be read.
func LegacyNames(family rules.Family) ([]string, error) {
	for _, f := range legacyFamilies() {
		if f.family == family {
			return f.tableNames()
		}
	}
	return nil, nil
}

// tableNames returns the tables that exist. Without the file the kernel has no such tables at all.
func (f *legacyFamily) tableNames(lists ...*os.File) ([]string, error) {
	path := listDir + f.names
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		if l := listOf(path, lists); l != nil {
			text, err = io.ReadAll(io.NewSectionReader(l, 0, math.MaxInt64))
		} else if f.unused("/sys/module") {
			return nil, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(text)), err
}

// listDir has the lists of legacy tables.
const listDir = "/proc/thread-self/net/"

// OpenLegacyLists opens the lists of legacy tables of the calling thread's network namespace, for a process that may
// not later. Close them. Those that there are not, or that may not be read, are left out.
func OpenLegacyLists() (lists []*os.File) {
	for _, f := range legacyFamilies() {
		if l, err := os.Open(listDir + f.names); err == nil {
			lists = append(lists, l)
		}
	}
	return lists
}

// listOf returns the list that a file is, by its inode: each network namespace has others. The numbers of the
// device differ with the mount of proc.
func listOf(path string, lists []*os.File) *os.File {
	var file, list unix.Stat_t
	if unix.Stat(path, &file) != nil {
		return nil
	}
	for _, l := range lists {
		if unix.Fstat(int(l.Fd()), &list) == nil && list.Ino == file.Ino {
			return l
		}
	}
	return nil
}

// unused reports whether the tables are made by a module, and no module uses it: each kind of table is one that
// does. systemd loads it on its own, and only the host's root may read the list of tables.
func (f *legacyFamily) unused(modules string) bool {
	holders, err := os.ReadDir(filepath.Join(modules, f.module, "holders")) // which no built-in module has
	return err == nil && len(holders) == 0
}

// errTableChanged is the error of a table that changes all the time.
var errTableChanged = errors.New("it changes all the time")

// read reads a table that exists.
func (f *legacyFamily) read(name string) (*rules.Table, error) {
	socket, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(socket)
	const attempts = 8
	for i := range attempts {
		info, entries, err := f.ask(socket, name)
		if err == nil {
			return f.parse(name, info, entries)
		}
		if !errors.Is(err, unix.EAGAIN) {
			return nil, err
		}
		time.Sleep(time.Millisecond << i)
	}
	return nil, errTableChanged
}

const tableNameLen = 32 // XT_TABLE_MAXNAMELEN

// ask returns struct ipt_getinfo and the entries. The error is EAGAIN if the table changed between.
func (f *legacyFamily) ask(socket int, name string) (info, entries []byte, err error) {
	before, err := f.getInfo(socket, name)
	if err != nil {
		return nil, nil, err
	}
	// struct ipt_get_entries: name, size, and the entries, which are aligned as 64 bits are.
	b := &blob{data: before}
	size := b.u32(len(before) - 4)
	at := wide(tableNameLen + 4)
	const most = 1 << 30
	if size > most {
		return nil, nil, fmt.Errorf("a table of %d bytes", size)
	}
	buffer := make([]byte, at+int(size))
	copy(buffer, name)
	*(*uint32)(unsafe.Pointer(&buffer[tableNameLen])) = size
	if _, err = getsockopt(socket, f.level, f.info+1, buffer); err != nil {
		return nil, nil, err
	}
	after, err := f.getInfo(socket, name)
	if err == nil && string(before) != string(after) {
		err = unix.EAGAIN
	}
	return before, buffer[at:], err
}

func (f *legacyFamily) getInfo(socket int, name string) ([]byte, error) {
	b := make([]byte, tableNameLen+4+8*f.hooks+8)
	copy(b, name)
	n, err := getsockopt(socket, f.level, f.info, b)
	if err == nil && n != len(b) {
		err = unix.EINVAL
	}
	return b, err
}

// getsockopt asks with a buffer that the kernel reads as well, and returns how much of it is filled.
func getsockopt(socket, level, option int, b []byte) (int, error) {
	n := uint32(len(b))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// LegacyBridge reports whether there may be tables of ebtables-legacy: the kernel lists them nowhere, and asking
// for one makes it. It is true if a module that makes them is there.
func LegacyBridge() bool {
	for _, name := range []string{"ebtable_filter", "ebtable_nat", "ebtable_broute"} {
		if _, err := os.Stat("/sys/module/" + name); err == nil {
			return true
		}
	}
	return false
}

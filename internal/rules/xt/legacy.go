// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// entry is one entry of a table: a rule, the end of a chain, or the name of one that follows.
type entry struct {
	at, next int
	data     blob // of the entry alone
	target   int  // offset in data
}

var errMalformedTable = errors.New("malformed table")

// parse makes chains of entries.
func (f *legacyFamily) parse(name string, info, data []byte) (*rules.Table, error) {
	count := &blob{data: info}
	entries, err := f.entries(data, int(count.u32(len(info)-8)))
	if err != nil {
		return nil, err
	}
	p := parser{legacyFamily: f, starts: map[int]string{}, names: map[string]string{}, verdicts: map[rules.Decision]rules.Expr{}}
	t := &rules.Table{Family: f.family, Name: name, Legacy: true}
	for i := range entries[:max(len(entries)-1, 0)] {
		if e := &entries[i]; e.isError() {
			p.starts[e.next] = e.data.text(e.target+targetHeader, 30)
		}
	}
	g := &blob{data: info}
	valid := g.u32(tableNameLen)
	for h, chain := range f.chains {
		if valid&(1<<h) == 0 {
			continue
		}
		first, last := int(g.u32(tableNameLen+4+4*h)), int(g.u32(tableNameLen+4+4*f.hooks+4*h))
		i, ok := find(entries, first)
		j, ok2 := find(entries, last)
		if !ok || !ok2 || i > j {
			return nil, errMalformedTable
		}
		policy, _ := entries[j].verdict()
		c := &rules.Chain{Table: t, Name: chain, Base: f.base(name, h, -policy-1)}
		t.Chains = append(t.Chains, c)
		if err := p.fill(c, entries[i:j]); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		chain, ok := p.starts[entries[i].at]
		if !ok {
			continue
		}
		// The chain ends before the next name; its last entry is the RETURN that iptables does not print.
		j := i
		for j < len(entries) && !entries[j].isError() {
			j++
		}
		c := &rules.Chain{Table: t, Name: chain}
		t.Chains = append(t.Chains, c)
		if err := p.fill(c, entries[i:max(j-1, i)]); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// xtReturn is the verdict XT_RETURN.
const xtReturn = -5

// targetHeader is the length of struct xt_entry_target, and of xt_entry_match.
const targetHeader = 32

// parser makes the rules of one table.
type parser struct {
	*legacyFamily
	starts map[int]string    // names of user chains by the offset of their first rule
	names  map[string]string // of matches and targets
	// verdicts are the expressions of rules that end alike.
	verdicts map[rules.Decision]rules.Expr
}

// find returns the entry at an offset.
func find(entries []entry, at int) (int, bool) {
	return slices.BinarySearchFunc(entries, at, func(e entry, at int) int { return e.at - at })
}

// entries finds the entries, of which there are so many.
func (f *legacyFamily) entries(data []byte, count int) (list []entry, err error) {
	least := f.counters + 16 + targetHeader
	list = make([]entry, 0, max(min(count, len(data)/least), 0))
	for at := 0; at < len(data); {
		b := blob{data: data[at:]}
		target, next := int(b.u16(f.fields)), int(b.u16(f.fields+2))
		if b.short || target < f.counters+16 || next < target+targetHeader || next > len(b.data) {
			return nil, errMalformedTable
		}
		list = append(list, entry{at: at, next: at + next, data: blob{data: b.data[:next]}, target: target})
		at += next
	}
	return list, nil
}

// isError reports whether the entry names a chain, or ends the table.
func (e *entry) isError() bool {
	return bytes.HasPrefix(e.data.at(e.target+2, 29), []byte("ERROR\x00"))
}

// verdict returns that of a standard target, and whether it is one.
func (e *entry) verdict() (int32, bool) {
	if e.data.u8(e.target+2) != 0 {
		return 0, false
	}
	return int32(e.data.u32(e.target + targetHeader)), true //nolint:gosec // a signed number of the kernel
}

// base says when the kernel calls a chain.
func (f *legacyFamily) base(table string, hook int, policy int32) *rules.Base {
	b := &rules.Base{Type: "filter", Hook: uint32(hook), Policy: policy}
	if f.family == unix.NFPROTO_ARP {
		return b
	}
	switch table {
	case "raw":
		b.Priority = -300
	case "mangle":
		b.Priority = -150
		if hook == unix.NF_INET_LOCAL_OUT {
			b.Type = "route"
		}
	case "nat":
		b.Type, b.Priority = "nat", -100
		if hook == unix.NF_INET_POST_ROUTING || hook == unix.NF_INET_LOCAL_IN {
			b.Priority = 100
		}
	case "security":
		b.Priority = 50
	}
	return b
}

// fill makes rules of entries.
func (p *parser) fill(c *rules.Chain, entries []entry) error {
	list := make([]rules.Rule, len(entries))
	c.Rules = make([]*rules.Rule, len(entries))
	for i := range entries {
		r := &list[i]
		r.Chain, r.Index = c, i
		if err := p.rule(r, &entries[i]); err != nil {
			return err
		}
		c.Rules[i] = r
	}
	return nil
}

// rule decodes an entry: the header if it asks for anything, matches, a counter, and a verdict or target.
func (p *parser) rule(r *rules.Rule, e *entry) error {
	const usual = 4
	r.Exprs = make([]rules.Expr, 0, usual)
	header := e.data.at(0, p.header)
	if asks(header, p.flags) {
		r.Exprs = append(r.Exprs, rules.Match{Name: HeaderName, Info: header})
	}
	for at := p.counters + 16; at < e.target; {
		size := int(e.data.u16(at))
		if size < targetHeader || at+size > e.target {
			return errMalformedTable
		}
		m := rules.Match{
			Name: p.name(e, at), Rev: uint32(e.data.u8(at + 31)), Info: e.data.at(at+targetHeader, size-targetHeader),
		}
		if m.Name == "comment" {
			r.Comment = unix.ByteSliceToString(m.Info)
		}
		r.Exprs = append(r.Exprs, m)
		at += size
	}
	r.Exprs = append(r.Exprs, rules.Counter{Packets: e.data.u64(p.counters), Bytes: e.data.u64(p.counters + 8)})
	verdict, standard := e.verdict()
	if !standard {
		size := int(e.data.u16(e.target))
		if size < targetHeader || e.target+size > len(e.data.data) {
			return errMalformedTable
		}
		r.Exprs = append(r.Exprs, rules.Target{
			Name: p.name(e, e.target), Rev: uint32(e.data.u8(e.target + 31)), Info: e.data.at(e.target+targetHeader, size-targetHeader),
		})
		return nil
	}
	d := rules.Decision{}
	switch {
	case verdict == xtReturn:
		d.Code = unix.NFT_RETURN
	case verdict < 0:
		d.Code = -verdict - 1
	case int(verdict) == e.next: // no target
		return nil
	default:
		name, ok := p.starts[int(verdict)]
		if !ok {
			return errMalformedTable
		}
		d.Code, d.Chain = unix.NFT_JUMP, name
		if p.goes != 0 && header[p.flags]&p.goes != 0 {
			d.Code = unix.NFT_GOTO
		}
	}
	x, ok := p.verdicts[d]
	if !ok {
		own := d
		x = rules.Immediate{Dreg: rules.Verdict, Decision: &own}
		p.verdicts[d] = x
	}
	r.Exprs = append(r.Exprs, x)
	return nil
}

// asks reports whether a header compares anything: all of it is zero, but for the flag of a goto.
func asks(header []byte, flags int) bool {
	for i, b := range header {
		if b != 0 && i != flags {
			return true
		}
	}
	return flags != 0 && header[flags]&ipFragment != 0
}

// name is that of a match or target.
func (p *parser) name(e *entry, at int) string {
	b := e.data.at(at+2, 29)
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	name, ok := p.names[string(b)]
	if !ok {
		name = string(b)
		p.names[name] = name
	}
	return name
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

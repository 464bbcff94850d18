// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Conntrack is the state of connection tracking.
type Conntrack struct {
	// Count is how many entries the namespace has; Max is one limit for each namespace. Zero Max: no
	// limit.
	Count, Max uint64
	// The counters are of the namespace, over all CPUs. Drop counts packets that were dropped because
	// the table was full or memory was short; EarlyDrop entries that were removed to make room.
	Drop, EarlyDrop, InsertFailed, SearchRestart, Invalid, ChainTooLong uint64
}

// Full reports whether a new connection finds no room. Entries that are not assured, of connections
// that were not answered or have ended, are removed to make some: it may find room all the same.
func (c *Conntrack) Full() bool { return c.Max != 0 && c.Count >= c.Max }

// Conntrack reads the state of connection tracking. nil: there is none in the kernel, or it has not
// begun.
func (h *Host) Conntrack() (*Conntrack, error) {
	count, err := h.SysctlInt("net/netfilter/nf_conntrack_count")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	limit, err := h.SysctlInt("net/netfilter/nf_conntrack_max")
	if err != nil {
		return nil, err
	}
	c := &Conntrack{Count: uint64(count), Max: uint64(limit)}
	text, err := h.readNet("stat/nf_conntrack")
	if errors.Is(err, fs.ErrNotExist) { // it is an option of the kernel
		return c, nil
	}
	if err != nil {
		return c, err
	}
	counters := parseConntrackStat(text)
	c.Drop, c.EarlyDrop, c.InsertFailed = counters["drop"], counters["early_drop"], counters["insert_failed"]
	c.SearchRestart, c.Invalid, c.ChainTooLong = counters["search_restart"], counters["invalid"], counters["chaintoolong"]
	return c, nil
}

// readNet reads a file of /proc/net, which are the namespace's.
func (h *Host) readNet(name string) (text string, err error) {
	err = h.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		text = string(b)
		return err
	})
	if err != nil {
		return "", h.note(fmt.Errorf("read counters: %w", err))
	}
	return text, nil
}

// parseConntrackStat adds the columns of /proc/net/stat/nf_conntrack up, which has a line for each CPU.
func parseConntrackStat(text string) map[string]uint64 {
	counters := map[string]uint64{}
	header, lines, _ := strings.Cut(text, "\n")
	names := strings.Fields(header)
	for line := range strings.Lines(lines) {
		for i, field := range strings.Fields(line) {
			if n, err := strconv.ParseUint(field, 16, 64); err == nil && i < len(names) {
				counters[names[i]] += n
			}
		}
	}
	return counters
}

// Counter reads a counter of /proc/net/netstat, snmp or snmp6: "TcpExt", "IPReversePathFilter";
// "Ip6", "InAddrErrors". The error is fs.ErrNotExist if the kernel does not have it. All are of the
// moment at which the first is asked for.
func (h *Host) Counter(group, name string) (uint64, error) {
	if h.counters == nil {
		counters := map[string]uint64{}
		for _, file := range []string{"netstat", "snmp"} {
			text, err := h.readNet(file)
			if err != nil {
				return 0, err
			}
			parsePairs(text, counters)
		}
		text, err := h.readNet("snmp6")
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // there is no IPv6
			return 0, err
		}
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) == 2 {
				counters[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
			}
		}
		h.counters = counters
	}
	n, ok := h.counters[group+name]
	if !ok {
		return 0, fmt.Errorf("read counter %s: %w", group+name, fs.ErrNotExist)
	}
	return n, nil
}

// parsePairs reads pairs of lines: a group with names, and the same group with values.
func parsePairs(text string, counters map[string]uint64) {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || len(names) != len(f) || names[0] != f[0] {
			names = f
			continue
		}
		for i, v := range f[1:] {
			// Some are negative: "MaxConn -1".
			if n, err := strconv.ParseUint(v, 10, 64); err == nil {
				counters[strings.TrimSuffix(f[0], ":")+names[i+1]] = n
			}
		}
		names = nil
	}
}

// Entry is an entry of connection tracking.
type Entry struct {
	Status uint32 // IPS_*
	// State is that of TCP, as conntrack(8) prints it: "SYN_SENT". Empty: not TCP.
	State    string
	Timeout  uint32 // seconds
	Mark     uint32
	Original Tuple
	Reply    Tuple
}

// Tuple is one direction of a connection.
type Tuple struct {
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// String returns the tuple as conntrack(8) prints it.
func (t Tuple) String() string {
	return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", t.Src, t.Dst, t.SrcPort, t.DstPort)
}

// ipsSeenReply and the following are of include/uapi/linux/netfilter/nf_conntrack_common.h.
const (
	ipsSeenReply = 1 << 1
	ipsAssured   = 1 << 2
)

// Replied reports whether a packet has come the other way.
func (e *Entry) Replied() bool { return e.Status&ipsSeenReply != 0 }

// String returns the entry about as conntrack(8) prints it.
func (e *Entry) String() string {
	words := []string{protoText(e.Original.Proto)}
	if e.State != "" {
		words = append(words, e.State)
	}
	words = append(words, e.Original.String())
	if !e.Replied() {
		words = append(words, "[UNREPLIED]")
	}
	words = append(words, e.Reply.String())
	if e.Status&ipsAssured != 0 {
		words = append(words, "[ASSURED]")
	}
	return strings.Join(words, " ")
}

// Of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet           = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctaOrig         = 1
	ctaReply        = 2
	ctaStatus       = 3
	ctaProtoInfo    = 4
	ctaTimeout      = 7
	ctaMark         = 8
	ctaFilter       = 25
	ctaTupleIP      = 1
	ctaTupleProto   = 2
	ctaIPv4Src      = 1
	ctaIPv4Dst      = 2
	ctaIPv6Src      = 3
	ctaIPv6Dst      = 4
	ctaProtoNum     = 1
	ctaProtoSrc     = 2
	ctaProtoDst     = 3
	ctaProtoInfoTCP = 1
	ctaTCPState     = 1

	ctaFilterOrig  = 1
	ctaFilterReply = 2
	filterIPSrc    = 1 << 0
	filterIPDst    = 1 << 1
	filterProtoNum = 1 << 3
	filterDstPort  = 1 << 5
)

// tcpStates are the names of the states of TCP (enum tcp_conntrack).
var tcpStates = [...]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

// entriesLimit bounds how many entries EntriesOf returns.
const entriesLimit = 64

// EntriesOf lists entries of a client's connections to an address and port, whatever their own: at
// most 64. The kernel goes through its whole table for it.
func (h *Host) EntriesOf(proto uint8, from netip.Addr, to netip.AddrPort) (list []*Entry, err error) {
	from = from.Unmap().WithZone("")
	t := Tuple{Proto: proto, Src: from, Dst: to.Addr().Unmap().WithZone(""), DstPort: to.Port()}
	body := appendTuple([]byte{family(from.Is4()), unix.NFNETLINK_V0, 0, 0}, ctaOrig, t)
	body, at := nlwire.OpenAttr(body, ctaFilter|nlwire.Nested)
	flags := uint32(filterProtoNum | filterDstPort)
	if from.Is4() {
		flags |= filterIPSrc | filterIPDst // of IPv6 the kernel leaves out what has the address (ctnetlink_filter_match_tuple)
	}
	body = appendU32(body, ctaFilterOrig, flags)
	body = appendU32(body, ctaFilterReply, 0)
	body = nlwire.CloseAttr(body, at)
	// A change meanwhile does no harm: it goes on to happen anyway.
	err = h.ask(unix.NETLINK_NETFILTER, ctGet, unix.NLM_F_DUMP, body, func() { list = nil }, func(m nlwire.Message) error {
		e, err := parseEntry(m)
		// Before Linux 5.8 all entries come.
		if err == nil && len(list) < entriesLimit && e.Original.Src == t.Src && e.Original.Dst == t.Dst &&
			e.Original.Proto == proto && e.Original.DstPort == t.DstPort {
			list = append(list, e)
		}
		return err
	})
	if err != nil && !errors.Is(err, errInterrupted) {
		return nil, h.note(fmt.Errorf("list entries of connection tracking: %w", err))
	}
	return list, nil
}

func appendTuple(b []byte, typ uint16, t Tuple) []byte {
	b, tuple := nlwire.OpenAttr(b, typ|nlwire.Nested)
	b, ip := nlwire.OpenAttr(b, ctaTupleIP|nlwire.Nested)
	src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if t.Src.Is6() {
		src, dst = ctaIPv6Src, ctaIPv6Dst
	}
	b = nlwire.AppendAttr(b, src, t.Src.AsSlice()...)
	b = nlwire.AppendAttr(b, dst, t.Dst.AsSlice()...)
	b = nlwire.CloseAttr(b, ip)
	b, proto := nlwire.OpenAttr(b, ctaTupleProto|nlwire.Nested)
	b = nlwire.AppendAttr(b, ctaProtoNum, t.Proto)
	b = nlwire.AppendAttr(b, ctaProtoSrc, binary.BigEndian.AppendUint16(nil, t.SrcPort)...)
	b = nlwire.AppendAttr(b, ctaProtoDst, binary.BigEndian.AppendUint16(nil, t.DstPort)...)
	b = nlwire.CloseAttr(b, proto)
	return nlwire.CloseAttr(b, tuple)
}

func parseEntry(m nlwire.Message) (*Entry, error) {
	e := &Entry{}
	a := m.Attrs(nlwire.NetfilterHeader)
	for a.Next() {
		switch a.Type {
		case ctaOrig:
			e.Original = parseTuple(a.Payload)
		case ctaReply:
			e.Reply = parseTuple(a.Payload)
		case ctaStatus:
			e.Status = a.BE32()
		case ctaTimeout:
			e.Timeout = a.BE32()
		case ctaMark:
			e.Mark = a.BE32()
		case ctaProtoInfo:
			if s := nlwire.Find(nlwire.Find(a.Payload, ctaProtoInfoTCP), ctaTCPState); len(s) == 1 && int(s[0]) < len(tcpStates) {
				e.State = tcpStates[s[0]]
			}
		}
	}
	return e, a.Err
}

func parseTuple(b []byte) (t Tuple) {
	for a := (nlwire.Attrs{Data: nlwire.Find(b, ctaTupleIP)}); a.Next(); {
		addr, _ := netip.AddrFromSlice(a.Payload)
		switch a.Type {
		case ctaIPv4Src, ctaIPv6Src:
			t.Src = addr
		case ctaIPv4Dst, ctaIPv6Dst:
			t.Dst = addr
		}
	}
	proto := nlwire.Find(b, ctaTupleProto)
	t.Proto = u8(nlwire.Find(proto, ctaProtoNum))
	t.SrcPort, t.DstPort = be16(nlwire.Find(proto, ctaProtoSrc)), be16(nlwire.Find(proto, ctaProtoDst))
	return t
}

func be16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

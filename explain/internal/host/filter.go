// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

type filterKey struct {
	link   int
	egress bool
}

// TCFilter is a filter of traffic control.
type TCFilter struct {
	Link     int
	Egress   bool
	Kind     string // "bpf", "u32", "flower"; "tcx" for a program of eBPF without a filter
	Protocol uint16 // ETH_P_*; of ETH_P_ALL it takes all
	Priority uint16
	Handle   uint32
	Program  uint32 // id of a program of eBPF; zero: none
	Name     string // of the program
	Actions  []TCAction
	// Text is it about as tc(8) prints it: "filter dev eth0 ingress protocol ip pref 49152 bpf".
	Text    string
	chain   uint32
	below   bool // it is asked only if another filter leads to it
	options []byte
}

// String returns the Text.
func (f *TCFilter) String() string { return f.Text }

// TCAction is what a filter does.
type TCAction struct {
	Kind    string // "gact", "mirred", "bpf"
	Control int32  // TC_ACT_*
	// Target is the interface of mirred; Redirects is set if the packet goes there, and not a copy.
	Target    int
	Redirects bool
}

// Of include/uapi/linux/pkt_cls.h, and of others behind it.
const (
	tcaChain       = 11
	tcaBPFAct      = 1
	tcaBPFClassID  = 3
	tcaBPFOpsLen   = 4
	tcaBPFOps      = 5
	tcaBPFName     = 7
	tcaBPFFlags    = 8
	tcaBPFID       = 11
	tcaU32Link     = 3
	tcaU32Sel      = 5
	tcaU32Act      = 7
	tcaU32InDev    = 8
	tcaU32Mark     = 10
	tcaFlowerAct   = 3
	tcaMatchAllAct = 2
	tcaBasicAct    = 3
	tcaFWAct       = 4
	tcaActKind     = 1
	tcaActOptions  = 2
	tcaActParms    = 2 // of gact, mirred and most others
	bpfDirect      = 1 // TCA_BPF_FLAG_ACT_DIRECT
	u32Terminal    = 1 // TC_U32_TERMINAL
	u32Table       = 0xfff00000

	actUnspec     = -1
	actOK         = 0
	actReclassify = 1
	actShot       = 2
	actPipe       = 3
	actStolen     = 4
	actQueued     = 5
	actTrap       = 8
	actRedirect   = 7
)

// Filters lists the filters at ingress or egress of an interface, in the order in which the kernel asks
// them: programs of tcx first. If those cannot be read the error says so, and the others are returned.
func (h *Host) Filters(link int, egress bool) ([]*TCFilter, error) {
	key := filterKey{link, egress}
	if list, known := h.filters[key]; known {
		return list, nil
	}
	list, tcx := h.tcx(link, egress)
	qdiscs, err := h.Qdiscs(link)
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		var parent uint32
		switch {
		case q.Kind == "clsact" && egress:
			parent = tcClsactEgress
		case q.Kind == "clsact":
			parent = tcClsactIngress
		case q.Kind == "ingress" && !egress:
			parent = tcIngressHandle
		case egress && q.Parent == tcRoot && q.isClassful():
			parent = q.Handle
		default:
			continue
		}
		of, err := h.filtersAt(link, parent, egress)
		if err != nil {
			return nil, err
		}
		list = append(list, of...)
	}
	if tcx == nil {
		h.filters[key] = list
	}
	return list, tcx
}

func (h *Host) filtersAt(link int, parent uint32, egress bool) (list []*TCFilter, err error) {
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETTFILTER, unix.NLM_F_DUMP, tcMessage(link, parent), func() { list = nil }, func(m nlwire.Message) error {
		f, err := parseFilter(m)
		if err == nil && f != nil {
			f.Link, f.Egress = link, egress
			list = append(list, f)
		}
		return err
	})
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // it has gone
		return nil, h.note(fmt.Errorf("read filters of %s: %w", h.linkName(link), err))
	}
	tables := map[uint32]bool{} // of u32, that others lead to
	for _, f := range list {
		f.Text = h.filterText(f)
		if to := nlwire.Find(f.options, tcaU32Link); f.Kind == "u32" && to != nil {
			tables[u32(to)&u32Table] = true
		}
	}
	for _, f := range list {
		f.below = f.chain != 0 || f.Kind == "u32" && tables[f.Handle&u32Table]
	}
	return list, nil
}

// parseFilter reads a filter; nil: it is none, but the head of a list of filters.
func parseFilter(m nlwire.Message) (*TCFilter, error) {
	b := m.Payload
	if len(b) < tcHeader {
		return nil, nlwire.ErrMalformed
	}
	info := u32(b[16:])
	protocol := binary.NativeEndian.AppendUint16(nil, uint16(info)) // in network byte order
	f := &TCFilter{Handle: u32(b[8:]), Priority: uint16(info >> 16), Protocol: be16(protocol)}
	found := false
	a := m.Attrs(tcHeader)
	for a.Next() {
		switch a.Type {
		case unix.TCA_KIND:
			f.Kind = unix.ByteSliceToString(a.Payload)
		case tcaChain:
			f.chain = u32(a.Payload)
		case unix.TCA_OPTIONS:
			f.options, found = slices.Clone(a.Payload), true
		}
	}
	if !found || f.Kind == "u32" && nlwire.Find(f.options, tcaU32Sel) == nil { // a hash table of u32
		return nil, a.Err
	}
	act := uint16(0)
	switch f.Kind {
	case "bpf":
		act = tcaBPFAct
		f.Program, f.Name = u32(nlwire.Find(f.options, tcaBPFID)), nlwire.FindString(f.options, tcaBPFName)
	case "u32":
		act = tcaU32Act
	case "flower", "basic":
		act = tcaFlowerAct
	case "matchall":
		act = tcaMatchAllAct
	case "fw":
		act = tcaFWAct
	}
	if act != 0 {
		f.Actions = parseActions(nlwire.Find(f.options, act))
	}
	return f, a.Err
}

// parseActions reads a list of actions by number.
func parseActions(b []byte) (list []TCAction) {
	for a := (nlwire.Attrs{Data: b}); a.Next(); {
		action := TCAction{Kind: nlwire.FindString(a.Payload, tcaActKind), Control: actUnspec}
		parms := nlwire.Find(nlwire.Find(a.Payload, tcaActOptions), tcaActParms)
		if len(parms) >= 12 { // tc_gen: index, capab, action, refcnt, bindcnt
			action.Control = int32(u32(parms[8:]))
		}
		if action.Kind == "mirred" && len(parms) >= 28 { // struct tc_mirred
			what := u32(parms[20:])
			action.Redirects, action.Target = what == 1 || what == 3, int(u32(parms[24:]))
		}
		list = append(list, action)
	}
	return list
}

func (h *Host) filterText(f *TCFilter) string {
	words := []string{"filter dev", h.linkName(f.Link)}
	if f.Egress {
		words = append(words, "egress")
	} else {
		words = append(words, "ingress")
	}
	if f.Kind == "tcx" {
		return strings.Join(append(words, fmt.Sprintf("tcx prog_id %d", f.Program)), " ")
	}
	protocol := map[uint16]string{unix.ETH_P_ALL: "all", unix.ETH_P_IP: "ip", unix.ETH_P_IPV6: "ipv6", unix.ETH_P_ARP: "arp"}[f.Protocol]
	if protocol == "" {
		protocol = fmt.Sprintf("%#04x", f.Protocol)
	}
	words = append(words, "protocol", protocol, fmt.Sprintf("pref %d", f.Priority), f.Kind)
	if f.chain != 0 {
		words = append(words, fmt.Sprintf("chain %d", f.chain))
	}
	if f.Kind == "u32" {
		words = append(words, fmt.Sprintf("fh %x:%x:%x", f.Handle>>20, f.Handle>>12&0xff, f.Handle&0xfff))
	} else {
		words = append(words, fmt.Sprintf("handle %#x", f.Handle))
	}
	if f.Name != "" {
		words = append(words, f.Name)
	}
	if f.Program != 0 {
		words = append(words, fmt.Sprintf("id %d", f.Program))
	}
	for _, a := range f.Actions {
		switch {
		case a.Kind == "mirred" && a.Redirects:
			words = append(words, "action mirred redirect dev "+h.linkName(a.Target))
		case a.Kind == "mirred":
			words = append(words, "action mirred mirror dev "+h.linkName(a.Target))
		case a.Kind == "gact" && a.Control == actShot:
			words = append(words, "action drop")
		case a.Kind == "gact" && a.Control == actOK:
			words = append(words, "action pass")
		default:
			words = append(words, "action "+a.Kind)
		}
	}
	return strings.Join(words, " ")
}

// Of include/uapi/linux/bpf.h.
const (
	bpfProgQuery  = 16
	bpfTCXIngress = 46
	bpfTCXEgress  = 47
)

// bpfQuery is what BPF_PROG_QUERY takes in union bpf_attr.
type bpfQuery struct {
	target, attachType, flags, attachFlags uint32
	progIDs                                uint64
	count, _                               uint32
	attachFlagsOf, linkIDs, linkFlags      uint64
	revision                               uint64
}

// tcxLimit is how many programs the kernel has at one hook (BPF_MPROG_MAX).
const tcxLimit = 64

// tcx lists the programs of eBPF at ingress or egress of an interface that are no filters.
func (h *Host) tcx(link int, egress bool) (list []*TCFilter, err error) {
	var ids [tcxLimit]uint32
	var pinner runtime.Pinner // a number does not keep what it points to in its place
	pinner.Pin(&ids)
	defer pinner.Unpin()
	q := bpfQuery{target: uint32(link), attachType: bpfTCXIngress, count: tcxLimit, progIDs: uint64(uintptr(unsafe.Pointer(&ids)))}
	if egress {
		q.attachType = bpfTCXEgress
	}
	err = h.do(func() error {
		_, err := bpfCall(bpfProgQuery, unsafe.Pointer(&q), unsafe.Sizeof(q))
		return err
	})
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		// Before Linux 6.6 there are none, and without eBPF neither.
		return nil, nil
	case err != nil:
		return nil, h.note(fmt.Errorf("read tcx programs of %s: %w", h.linkName(link), err))
	}
	for _, id := range ids[:min(q.count, tcxLimit)] {
		f := &TCFilter{Link: link, Egress: egress, Kind: "tcx", Protocol: unix.ETH_P_ALL, Program: id}
		f.Text = h.filterText(f)
		list = append(list, f)
	}
	return list, nil
}

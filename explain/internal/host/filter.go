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

// TCVerdict is what filters do to a frame.
type TCVerdict int

// The verdicts.
const (
	TCPasses TCVerdict = iota
	TCDrops
	TCRedirects // it goes to another interface
	TCUnknown   // it cannot be known
)

// String returns the verdict in a word.
func (v TCVerdict) String() string {
	names := [...]string{TCPasses: "passes", TCDrops: "drops", TCRedirects: "redirects", TCUnknown: "unknown"}
	if v < 0 || int(v) >= len(names) {
		return "invalid"
	}
	return names[v]
}

// Classify says what the filters at ingress or egress of an interface do to a frame, which begins with its
// link header of so many bytes; protocol is ETH_P_*. by is the filter that decides, or that cannot be known; nil: none.
func (h *Host) Classify(link int, egress bool, frame []byte, header int, protocol uint16) (v TCVerdict, by *TCFilter, err error) {
	list, err := h.Filters(link, egress)
	if list == nil && err != nil {
		return TCUnknown, nil, err
	}
	if err != nil { // programs that could not be listed may do anything
		v = TCUnknown
	}
	for _, f := range list {
		if f.Protocol != protocol && f.Protocol != unix.ETH_P_ALL {
			continue
		}
		switch got, goesOn := f.apply(frame, header); {
		case got == TCDrops || got == TCRedirects:
			if v == TCUnknown {
				return TCUnknown, f, err
			}
			return got, f, err
		case got == TCUnknown:
			if v == TCPasses {
				v, by = TCUnknown, f
			}
		case !goesOn:
			return v, by, err
		}
	}
	return v, by, err
}

// apply says what a filter does to a frame, and, if it passes, whether the next filter is asked.
func (f *TCFilter) apply(frame []byte, header int) (v TCVerdict, goesOn bool) {
	if f.below {
		return TCPasses, true // of the one that leads to it it is not known whether it does
	}
	switch f.Kind {
	case "matchall":
	case "u32":
		switch matches, known := f.u32Matches(frame, header); {
		case !known:
			return f.unless()
		case !matches:
			return TCPasses, true
		}
	case "flower":
		switch matches, known := f.flowerMatches(frame, header); {
		case !known:
			return f.unless()
		case !matches:
			return TCPasses, true
		}
	case "bpf":
		result, known := f.runBPF(frame)
		switch {
		case !known:
			return TCUnknown, true
		case u32(nlwire.Find(f.options, tcaBPFFlags))&bpfDirect != 0:
			return control(int32(result))
		case result == 0:
			return TCPasses, true
		}
	default:
		return f.unless()
	}
	return f.act()
}

// unless is for a filter of which it is not known whether it matches: if its actions do nothing it does not matter.
func (f *TCFilter) unless() (v TCVerdict, goesOn bool) {
	if f.Kind != "tcx" && f.Kind != "bpf" && f.readsActions() {
		if v, goesOn := f.act(); v == TCPasses && goesOn {
			return TCPasses, true
		}
	}
	return TCUnknown, true
}

func (f *TCFilter) readsActions() bool {
	return slices.Contains([]string{"u32", "flower", "basic", "matchall", "fw"}, f.Kind)
}

// act says what the actions do (tcf_action_exec in net/sched/act_api.c).
func (f *TCFilter) act() (v TCVerdict, goesOn bool) {
	for _, a := range f.Actions {
		switch a.Kind {
		case "gact", "mirred":
		case "csum", "ctinfo", "sample", "simple", "skbedit", "connmark":
			// They change nothing that decides on a way, but skbedit and connmark the mark.
			if a.Kind == "skbedit" || a.Kind == "connmark" {
				return TCUnknown, true
			}
		default:
			return TCUnknown, true
		}
		if a.Kind == "mirred" && a.Redirects {
			return TCRedirects, false
		}
		if a.Control == actPipe {
			continue
		}
		return control(a.Control)
	}
	return TCPasses, false // of a class, or of nothing: TC_ACT_OK
}

// control is what a result of the kind TC_ACT_* does (sch_handle_ingress in net/core/dev.c).
func control(action int32) (v TCVerdict, goesOn bool) {
	switch action {
	case actOK, actPipe:
		return TCPasses, false
	case actUnspec:
		return TCPasses, true
	case actShot:
		return TCDrops, false
	case actStolen, actQueued, actTrap:
		return TCDrops, false
	case actRedirect:
		return TCRedirects, false
	}
	return TCUnknown, true
}

// u32Matches compares the keys of struct tc_u32_sel, which are from the network header on.
func (f *TCFilter) u32Matches(frame []byte, header int) (matches, known bool) {
	sel := nlwire.Find(f.options, tcaU32Sel)
	if len(sel) < 16 || nlwire.Find(f.options, tcaU32Link) != nil || nlwire.Find(f.options, tcaU32Mark) != nil ||
		nlwire.Find(f.options, tcaU32InDev) != nil {
		return false, false
	}
	if sel[0]&u32Terminal == 0 {
		return false, true
	}
	keys := sel[16:]
	for range int(sel[2]) {
		if len(keys) < 16 {
			return false, false
		}
		offset, more := int(int32(u32(keys[8:])))+header, u32(keys[12:])
		switch {
		case more != 0:
			return false, false // behind a header of any length
		case offset < 0 || offset+4 > len(frame):
			return false, true
		}
		for i := range 4 {
			if (frame[offset+i]^keys[4+i])&keys[i] != 0 {
				return false, true
			}
		}
		keys = keys[16:]
	}
	return true, true
}

// Keys of flower that are compared here: where each is in a packet without options.
var flowerKeys = map[uint16]struct {
	mask uint16
	v6   bool
	// offset from the network header; ports are of one protocol.
	offset, size int
	proto        byte
}{
	10: {mask: 11, offset: 12, size: 4}, 12: {mask: 13, offset: 16, size: 4},
	14: {mask: 15, v6: true, offset: 8, size: 16}, 16: {mask: 17, v6: true, offset: 24, size: 16},
	18: {mask: 35, offset: -1, size: 2, proto: unix.IPPROTO_TCP}, 19: {mask: 36, offset: -2, size: 2, proto: unix.IPPROTO_TCP},
	20: {mask: 37, offset: -1, size: 2, proto: unix.IPPROTO_UDP}, 21: {mask: 38, offset: -2, size: 2, proto: unix.IPPROTO_UDP},
}

// Further attributes of flower.
const (
	flowerClassID  = 1
	flowerEthType  = 8
	flowerIPProto  = 9
	flowerFlags    = 22
	flowerFragment = 47
	flowerInHW     = 86
)

// flowerMatches compares the keys of a flower filter.
func (f *TCFilter) flowerMatches(frame []byte, header int) (matches, known bool) {
	known = true
	if len(frame) < header+40 {
		return false, false
	}
	packet := frame[header:]
	v6 := packet[0]>>4 == 6
	proto, ports := packet[9], int(packet[0]&15)*4
	if v6 {
		proto, ports = packet[6], 40
	}
	masks := map[uint16]bool{}
	for _, k := range flowerKeys {
		masks[k.mask] = true
	}
	for a := (nlwire.Attrs{Data: f.options}); a.Next(); {
		k, isKey := flowerKeys[a.Type]
		switch {
		case isKey:
			at := k.offset
			if k.proto != 0 {
				at = ports + 2*(-1-k.offset)
				if proto != k.proto {
					return false, true
				}
			} else if k.v6 != v6 {
				return false, true
			}
			mask := nlwire.Find(f.options, k.mask)
			if len(a.Payload) != k.size || at+k.size > len(packet) {
				return false, false
			}
			for i := range k.size {
				m := byte(0xff)
				if len(mask) == k.size {
					m = mask[i]
				}
				if (packet[at+i]^a.Payload[i])&m != 0 {
					return false, true
				}
			}
		case a.Type == flowerIPProto:
			if u8(a.Payload) != proto {
				return false, true
			}
		case a.Type == flowerEthType:
			if (be16(a.Payload) == unix.ETH_P_IPV6) != v6 {
				return false, true
			}
		case masks[a.Type], a.Type == flowerClassID, a.Type == tcaFlowerAct, a.Type == flowerFlags, a.Type == flowerInHW:
		default:
			known = false
		}
	}
	return known, known
}

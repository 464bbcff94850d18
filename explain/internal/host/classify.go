// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

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

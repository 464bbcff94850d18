// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

// Qdisc is a queueing discipline of an interface.
type Qdisc struct {
	Link       int
	Kind       string // "fq_codel", "tbf", "clsact"
	Handle     uint32
	Parent     uint32
	Drops      uint32 // since it was made
	Overlimits uint32
	Backlog    uint32 // bytes
	QueueLen   uint32 // packets
}

// Suspect reports whether it is of a kind that drops or delays what comes to it, and not only what
// is too much: netem, tbf, and others that are not known here.
func (q *Qdisc) Suspect() bool { return false }

// String returns it about as tc(8) prints it: "qdisc tbf 1: dev eth0 root".
func (q *Qdisc) String() string { return "" }

// Qdiscs lists the queueing disciplines of an interface.
func (h *Host) Qdiscs(link int) ([]*Qdisc, error) { return nil, errTODO }

// TCAction is what a filter does.
type TCAction struct {
	Kind    string // "gact", "mirred", "bpf"
	Control int32  // TC_ACT_*
	Target  int    // index of the interface of mirred
}

// TCFilter is a filter of traffic control.
type TCFilter struct {
	Link     int
	Egress   bool
	Kind     string // "bpf", "u32", "flower", "tcx"
	Protocol uint16 // ETH_P_*
	Priority uint16
	Handle   uint32
	Program  uint32 // id of a program of eBPF; zero: none
	Name     string // of the program
	Actions  []TCAction
}

// String returns it about as tc(8) prints it: "filter dev eth0 ingress protocol ip pref 49152 bpf".
func (f *TCFilter) String() string { return "" }

// TCVerdict is what filters do to a frame.
type TCVerdict int

// The verdicts.
const (
	TCPasses TCVerdict = iota
	TCDrops
	TCRedirects
	TCUnknown // it cannot be known
)

// Filters lists the filters at ingress or egress of an interface, in the order in which the kernel asks
// them: those of tcx first.
func (h *Host) Filters(link int, egress bool) ([]*TCFilter, error) { return nil, errTODO }

// Classify says what the filters at ingress or egress of an interface do to a frame, which begins with its
// link header. by is the filter that decides, or that cannot be known; nil: none.
func (h *Host) Classify(link int, egress bool, frame []byte) (v TCVerdict, by *TCFilter, err error) {
	return TCPasses, nil, errTODO
}

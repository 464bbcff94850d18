// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Qdisc is a queueing discipline of an interface.
type Qdisc struct {
	Link       int
	Kind       string // "fq_codel", "tbf", "clsact"
	Handle     uint32
	Parent     uint32
	Dropped    uint32 // packets, since it was made
	Overlimits uint32
	Backlog    uint32 // bytes
	QueueLen   uint32 // packets
	// Text is it about as tc(8) prints it: "qdisc tbf 1: dev eth0 root".
	Text    string
	options []byte
}

// String returns the Text.
func (q *Qdisc) String() string { return q.Text }

// Handles of include/uapi/linux/pkt_sched.h.
const (
	tcRoot          = 0xffffffff
	tcIngressHandle = 0xffff0000
	tcClsactIngress = 0xfffffff2
	tcClsactEgress  = 0xfffffff3
	tcHeader        = 20 // struct tcmsg
	tcaStatsQueue   = 3
	tcaTBFParms     = 1
	tcaTBFBurst     = 6
)

// Drops says what becomes of a frame of that length: whether the discipline drops some of them by
// itself, and not only if more come than it sends, or all of them. One that shapes drops what does
// not fit its burst or its queue.
func (q *Qdisc) Drops(length int) (some, all bool) {
	switch q.Kind {
	case "blackhole", "noop":
		return true, true
	case "netem": // struct tc_netem_qopt
		if len(q.options) < 12 {
			return true, false
		}
		loss := u32(q.options[8:])
		return loss != 0, loss == 1<<32-1
	case "pfifo", "pfifo_head_drop": // struct tc_fifo_qopt
		all = len(q.options) >= 4 && u32(q.options) == 0
		return all, all
	case "bfifo":
		all = len(q.options) >= 4 && int64(u32(q.options)) < int64(length)
		return all, all
	case "tbf":
		return q.tbfDrops(length)
	case "plug", "red", "gred", "choke", "pie", "fq_pie", "sfb", "taprio", "etf", "cbs":
		return true, false
	}
	return false, false
}

// tbfDrops reads struct tc_tbf_qopt: two of struct tc_ratespec, the limit in bytes and the
// burst in ticks of 64 ns at the rate.
func (q *Qdisc) tbfDrops(length int) (some, all bool) {
	p := nlwire.Find(q.options, tcaTBFParms)
	if len(p) < 32 {
		return true, false
	}
	rate, limit, buffer := uint64(u32(p[8:])), uint64(u32(p[24:])), uint64(u32(p[28:]))
	burst := rate * buffer * 64 / 1e9
	if b := nlwire.Find(q.options, tcaTBFBurst); len(b) == 4 {
		burst = uint64(u32(b))
	}
	// What was rounded on the way to the kernel and back may be some bytes less.
	all = uint64(length) > limit || rate != 0 && uint64(length) > burst+burst/64+8
	return all, all
}

// isClassful reports whether other disciplines are below it.
func (q *Qdisc) isClassful() bool {
	return slices.Contains([]string{
		"htb", "hfsc", "prio", "multiq", "mq", "mqprio", "drr", "ets", "qfq", "cbq", "tbf", "netem", "taprio", "red",
	}, q.Kind)
}

// Qdiscs lists the queueing disciplines of an interface: its root, what is below that, and ingress or clsact.
func (h *Host) Qdiscs(link int) ([]*Qdisc, error) {
	if h.qdiscs == nil {
		// The kernel would multicast the answer to a question for one of them.
		all := map[int][]*Qdisc{}
		err := h.ask(unix.NETLINK_ROUTE, unix.RTM_GETQDISC, unix.NLM_F_DUMP, tcMessage(0, 0), func() { clear(all) }, func(m nlwire.Message) error {
			q, err := parseQdisc(m)
			if err == nil {
				all[q.Link] = append(all[q.Link], q)
			}
			return err
		})
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // the kernel has no traffic control
			return nil, h.note(fmt.Errorf("list qdiscs: %w", err))
		}
		h.qdiscs = all
	}
	list := h.qdiscs[link]
	for _, q := range list {
		if q.Text == "" {
			q.Text = h.qdiscText(q)
		}
	}
	return list, nil
}

// tcMessage makes struct tcmsg.
func tcMessage(link int, parent uint32) []byte {
	b := make([]byte, tcHeader)
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	binary.NativeEndian.PutUint32(b[12:], parent)
	return b
}

func parseQdisc(m nlwire.Message) (*Qdisc, error) {
	b := m.Payload
	if len(b) < tcHeader {
		return nil, nlwire.ErrMalformed
	}
	q := &Qdisc{Link: int(int32(u32(b[4:]))), Handle: u32(b[8:]), Parent: u32(b[12:])}
	a := m.Attrs(tcHeader)
	for a.Next() {
		switch a.Type {
		case unix.TCA_KIND:
			q.Kind = unix.ByteSliceToString(a.Payload)
		case unix.TCA_OPTIONS:
			q.options = slices.Clone(a.Payload)
		case unix.TCA_STATS2:
			if s := nlwire.Find(a.Payload, tcaStatsQueue); len(s) >= 20 { // struct gnet_stats_queue
				q.QueueLen, q.Backlog, q.Dropped, q.Overlimits = u32(s), u32(s[4:]), u32(s[8:]), u32(s[16:])
			}
		}
	}
	return q, a.Err
}

func (h *Host) qdiscText(q *Qdisc) string {
	words := []string{"qdisc", q.Kind, tcHandle(q.Handle), "dev", h.linkName(q.Link)}
	switch q.Parent {
	case tcRoot:
		words = append(words, "root")
	default:
		words = append(words, "parent", tcHandle(q.Parent))
	}
	return strings.Join(words, " ")
}

// tcHandle prints a handle as tc(8) does: "1:", "ffff:fff1".
func tcHandle(handle uint32) string {
	if handle&0xffff == 0 {
		return fmt.Sprintf("%x:", handle>>16)
	}
	return fmt.Sprintf("%x:%x", handle>>16, handle&0xffff)
}

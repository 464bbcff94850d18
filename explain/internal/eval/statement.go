// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

func notrack(cur *cursor) {
	if s := cur.state; s.ct.Seen || s.ct.Untracked || s.zone != 0 {
		return
	}
	cur.change().ct.Untracked = true
}

func (r *run) quota(rl *rules.Rule, x rules.Quota, cur *cursor) {
	const most = 65575 // bytes of a packet
	a := Maybe         // whether more have passed
	switch {
	case x.Used >= x.Bytes:
		a = Yes
	case x.Used+most < x.Bytes:
		a = No
	}
	if !x.Over {
		a = not(a)
	}
	r.hold(rl, cur, a, "a quota")
}

// queues is what Facts may know besides.
type queues interface {
	// Queue reports whether a program takes packets from a queue.
	Queue(number uint16) (bool, error)
}

// queue gives the packet to a program. What that lets pass goes on with the next base chain. If there
// is none, the kernel drops the packet, or lets it pass if the rule says so.
func (r *run) queue(rl *rules.Rule, x rules.Queue, cur *cursor) {
	taken, alone := true, false
	if q, ok := r.facts.(queues); ok && x.Sreg == 0 {
		taken = false
		for i := range min(max(x.Total, 1), 1<<16) {
			one, err := q.Queue(uint16(x.First + i))
			taken = taken || one || err != nil
			alone = alone || !one && err == nil
		}
	}
	without := int32(codeDrop)
	if x.Flags&unix.NFT_QUEUE_FLAG_BYPASS != 0 {
		without = codeAccept
	}
	if !taken {
		cur.end(without)
		return
	}
	reason := "a program that decides"
	r.way(rl, cur, reason).end(codeAccept)
	r.way(rl, cur, reason).end(codeQueue)
	if alone && without == codeDrop {
		r.way(rl, cur, "which queue it is").end(codeDrop)
	}
}

// tproxy gives the packet to a local socket, or breaks off if there is none. A packet that has a socket is
// not forwarded, whatever other rules make of it.
func (r *run) tproxy(rl *rules.Rule, cur *cursor) {
	if p := r.base.Proto; p != unix.IPPROTO_TCP && p != unix.IPPROTO_UDP {
		cur.broken()
		return
	}
	const reason = "the socket that tproxy looks for"
	r.way(rl, cur, reason).end(codeStolen)
	r.way(rl, cur, reason).broken()
}

func (r *run) synproxy(cur *cursor) {
	flags := cur.state.th.val[13]
	switch {
	case r.base.Proto != unix.IPPROTO_TCP:
		cur.broken()
	case flags&(tcpSYN|tcpACK) != 0:
		cur.end(codeStolen)
	}
}

// NFT_OBJECT_* of objects that decide.
const (
	objectQuota     = 2
	objectLimit     = 4
	objectConnLimit = 5
	objectSynproxy  = 10
)

func (r *run) objref(rl *rules.Rule, x rules.Objref, cur *cursor) {
	name, typ := x.Name, x.Type
	if x.Map != "" {
		set := rl.Chain.Table.Sets[x.Map]
		if set == nil {
			r.fork(rl, cur, "map "+x.Map+", which is not there")
			return
		}
		key, ok := cur.regs.get(x.Sreg, int(set.KeyLen))
		if !ok {
			r.fork(rl, cur, "the object of map "+x.Map)
			return
		}
		e, ok, err := r.facts.Get(set, key)
		switch {
		case err != nil:
			r.fork(rl, cur, "map "+x.Map+", which cannot be read")
			return
		case !ok:
			cur.broken()
			return
		}
		name, typ = e.Object, set.ObjType
	}
	switch typ {
	case objectLimit:
		r.fork(rl, cur, "a limit")
	case objectConnLimit:
		r.fork(rl, cur, "a limit of connections")
	case objectSynproxy:
		r.synproxy(cur)
	case objectQuota:
		o, err := r.facts.Object(rl.Chain.Table, typ, name)
		if q, ok := o.Value.(rules.Quota); ok && err == nil {
			r.quota(rl, q, cur)
			return
		}
		r.fork(rl, cur, "a quota")
	}
}

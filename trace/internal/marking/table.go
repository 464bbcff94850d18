// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package marking

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// NamePrefix begins the name of every table of this package.
const NamePrefix = "nftnat-trace-"

// counterLeftOut counts packets over the limits.
const counterLeftOut = "left-out"

// Target is what packets are asked for: those of a protocol to a port of an address. An invalid
// address: any of the host's, of IPv4 or, if V6 is set, of IPv6. FromHost: only those that this host sends, to that address.
type Target struct {
	Proto    byte
	Addr     netip.Addr
	V6       bool
	Port     uint16
	FromHost bool
}

// Device is an interface.
type Device struct {
	Name  string
	Index int
}

// Table is a table in the kernel. It is there until Close, and goes with the process.
type Table struct {
	socket  *nlwire.Socket
	name    string
	seq     uint32
	buf     []byte
	targets map[Target]bool
	local   [2][]span         // of IPv4 and IPv6
	hooked  map[Device]string // and the chains of those that have one
	hooks   int               // how many chains at ingress were made
}

// Open makes the table in a network namespace, by an open file descriptor; zero: that of the calling thread. It
// marks nothing yet. The client is that whose packets are asked for; invalid: any.
func Open(netNS int, client netip.Addr) (_ *Table, err error) {
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: netNS, ReceiveBuffer: 1 << 20})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	t := &Table{
		socket: s, name: NamePrefix + strconv.FormatUint(uint64(s.Port()), 10), buf: make([]byte, nlwire.LargestDatagram),
		targets: map[Target]bool{}, hooked: map[Device]string{},
	}
	if err := t.make(client.Unmap()); err != nil {
		return nil, errors.Join(fmt.Errorf("add table inet %s: %w", t.name, err), s.Close())
	}
	return t, nil
}

// Name returns the name of the table, which is of the family inet.
func (t *Table) Name() string { return t.name }

// Close removes the table.
func (t *Table) Close() error { return t.socket.Close() }

func (t *Table) make(client netip.Addr) error {
	return t.transact(func(b *batch) {
		const owner = 2 // NFT_TABLE_F_OWNER
		b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
			nlwire.AppendBE32(nlwire.AppendString(nil, unix.NFTA_TABLE_NAME, t.name), unix.NFTA_TABLE_FLAGS, owner))
		o := nlwire.AppendString(nil, unix.NFTA_OBJ_TABLE, t.name)
		o = nlwire.AppendString(o, unix.NFTA_OBJ_NAME, counterLeftOut)
		o = nlwire.AppendBE32(o, unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		b.message(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, nlwire.AppendAttr(o, unix.NFTA_OBJ_DATA|nlwire.Nested))
		for i, s := range sets() {
			b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.attrs(t.name, uint32(i+1)))
		}
		all := chains(client)
		for _, c := range all { // before rules, which name them
			b.chain(c, "")
		}
		for _, c := range all {
			b.rules(c)
		}
	})
}

// key returns the set of a target and its key there.
func (g Target) key() (string, element) {
	port := field(byte(g.Port>>8), byte(g.Port))
	one4, one6 := setOne4, setOne6
	if g.FromHost {
		one4, one6 = setLed4, setLed6
	}
	switch {
	case g.Addr.Is4():
		return one4, element{key: slices.Concat(field(g.Proto), g.Addr.AsSlice(), port)}
	case g.Addr.Is6():
		return one6, element{key: slices.Concat(field(g.Proto), g.Addr.AsSlice(), port)}
	case g.V6:
		return setAny, element{key: slices.Concat(field(unix.NFPROTO_IPV6), field(g.Proto), port)}
	}
	return setAny, element{key: slices.Concat(field(unix.NFPROTO_IPV4), field(g.Proto), port)}
}

// mostChanges is how many targets one transaction adds, so that it fits a send buffer.
const mostChanges = 8192

// SetTargets says what is asked for from now on. It makes several transactions for many.
func (t *Table) SetTargets(targets []Target) error {
	want := make(map[Target]bool, len(targets))
	var added, removed []Target
	for _, g := range targets {
		g.Addr = g.Addr.Unmap().WithZone("")
		if !want[g] && !t.targets[g] {
			added = append(added, g)
		}
		want[g] = true
	}
	for g := range t.targets {
		if !want[g] {
			removed = append(removed, g)
		}
	}
	for _, c := range []struct {
		msg     uint16
		targets []Target
	}{{unix.NFT_MSG_DELSETELEM, removed}, {unix.NFT_MSG_NEWSETELEM, added}} {
		for part := range slices.Chunk(c.targets, mostChanges) {
			bySet := map[string][]element{}
			for _, g := range part {
				name, e := g.key()
				bySet[name] = append(bySet[name], e)
			}
			err := t.transact(func(b *batch) {
				for name, es := range bySet {
					b.elements(c.msg, name, es)
				}
			})
			if err != nil {
				return fmt.Errorf("change what is marked by table inet %s: %w", t.name, err)
			}
		}
	}
	t.targets = want
	return nil
}

// SetLocal says which addresses are the host's.
func (t *Table) SetLocal(prefixes []netip.Prefix) error {
	spans := mergeSpans(prefixes)
	if slices.Equal(spans[0], t.local[0]) && slices.Equal(spans[1], t.local[1]) {
		return nil
	}
	err := t.transact(func(b *batch) {
		for i, name := range []string{setLocal4, setLocal6} {
			a := nlwire.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
			b.message(unix.NFT_MSG_DELSETELEM, 0, nlwire.AppendString(a, unix.NFTA_SET_ELEM_LIST_SET, name))
			b.elements(unix.NFT_MSG_NEWSETELEM, name, elementsOf(spans[i]))
		}
	})
	if err != nil {
		return fmt.Errorf("change the addresses of table inet %s: %w", t.name, err)
	}
	t.local = spans
	return nil
}

// Hook has packets marked as soon as they come in by the first interfaces, for chains of netdev and bridge tables. What
// comes in by the others has been marked before. By further ones, packets are marked at prerouting. Those that
// were given before and are not among them have gone.
//
// Each interface has a chain of its own. The kernel takes a chain from an interface that goes or gets another name, and
// since Linux 6.16 gives it to the next one with its name; so such a chain is deleted.
func (t *Table) Hook(firsts, others []Device) error {
	want := map[Device]bool{} // and whether it has a chain
	for _, d := range others {
		want[d] = false
	}
	for _, d := range firsts {
		want[d] = true
	}
	for d, chain := range t.hooked {
		if first, ok := want[d]; !ok || first != (chain != "") {
			if err := t.unhook(d, chain); err != nil {
				return err
			}
		}
	}
	var added []Device
	for d, first := range want {
		if _, ok := t.hooked[d]; !ok && first {
			added = append(added, d)
		}
	}
	// All at once, or else each by itself: one may have gone.
	err := t.hook(added)
	if err != nil && len(added) > 1 {
		var errs []error
		for _, d := range added {
			errs = append(errs, t.hook([]Device{d}))
		}
		err = errors.Join(errs...)
	}
	if err != nil {
		return err
	}
	// Then the others, for without a chain nothing marks these packets.
	var rest []Device
	for d, first := range want {
		if _, ok := t.hooked[d]; !ok && !first {
			rest = append(rest, d)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	if err := t.transact(func(b *batch) { b.elements(unix.NFT_MSG_NEWSETELEM, setHooked, indexElements(rest)) }); err != nil {
		return fmt.Errorf("note interfaces: %w", err)
	}
	for _, d := range rest {
		t.hooked[d] = ""
	}
	return nil
}

// hook makes chains for interfaces.
func (t *Table) hook(devices []Device) error {
	if len(devices) == 0 {
		return nil
	}
	made := make([]chain, len(devices))
	for i := range devices {
		t.hooks++
		made[i] = chain{name: "ingress-" + strconv.Itoa(t.hooks), base: true, hook: hookIngress, priority: first, rules: [][]expr{{jump(chainAsked)}}}
	}
	err := t.transact(func(b *batch) {
		for i, c := range made {
			b.chain(c, devices[i].Name)
			b.rules(c)
		}
		b.elements(unix.NFT_MSG_NEWSETELEM, setHooked, indexElements(devices))
	})
	if err != nil {
		return fmt.Errorf("mark packets at ingress of %s: %w", devices[0].Name, err)
	}
	for i, d := range devices {
		t.hooked[d] = made[i].name
	}
	return nil
}

// unhook deletes the chain of an interface, if it has one and the kernel has not deleted it.
func (t *Table) unhook(d Device, name string) error {
	leave := func(name string) error {
		return t.transact(func(b *batch) {
			b.elements(unix.NFT_MSG_DELSETELEM, setHooked, indexElements([]Device{d}))
			if name != "" {
				a := nlwire.AppendString(nil, unix.NFTA_CHAIN_TABLE, b.table)
				b.message(unix.NFT_MSG_DELCHAIN, 0, nlwire.AppendString(a, unix.NFTA_CHAIN_NAME, name))
			}
		})
	}
	err := leave(name)
	if errors.Is(err, unix.ENOENT) && name != "" {
		err = leave("")
	}
	if err != nil {
		return fmt.Errorf("leave %s: %w", d.Name, err)
	}
	delete(t.hooked, d)
	return nil
}

func indexElements(devices []Device) (es []element) {
	for _, d := range devices {
		es = append(es, element{key: hostOrder(uint32(d.Index))})
	}
	return es
}

// LeftOut returns how many packets were not marked because of the limits.
func (t *Table) LeftOut() (packets uint64, err error) {
	b := nlwire.AppendString(nil, unix.NFTA_OBJ_TABLE, t.name)
	b = nlwire.AppendString(b, unix.NFTA_OBJ_NAME, counterLeftOut)
	b = nlwire.AppendBE32(b, unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	from := t.seq
	t.seq++
	buf, at := nlwire.OpenNetfilter(nil, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETOBJ, 0, unix.NFPROTO_INET, 0, t.seq)
	if err = t.socket.Send(nlwire.CloseMessage(append(buf, b...), at)); err == nil {
		err = t.answer(from, func(attrs []byte) {
			counter := nlwire.Attrs{Data: nlwire.Find(attrs, unix.NFTA_OBJ_DATA)}
			for counter.Next() {
				if counter.Type == unix.NFTA_COUNTER_PACKETS {
					packets = counter.BE64()
				}
			}
		})
	}
	if err != nil {
		return 0, fmt.Errorf("read counter %s of table inet %s: %w", counterLeftOut, t.name, err)
	}
	return packets, nil
}

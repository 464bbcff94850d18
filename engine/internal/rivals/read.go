// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Bounds of what is read of other programs' tables. What is beyond them says nothing.
const (
	maxRules    = 1 << 14 // of all chains
	maxElements = 1 << 12 // of a set
	maxVisits   = 1 << 10 // of chains, by jumps
	maxClaims   = 1 << 12
	readTime    = time.Second // for all
)

// errTooMany means that a list was longer than a bound.
var errTooMany = errors.New("there are too many")

// Reader reads the tables of a network namespace.
type Reader struct {
	netNS  int
	caller string
	socket *nlwire.Socket
	seq    uint32
	buffer []byte
	last   last
}

// last is what was read last, at that generation of the ruleset, and after so many changes by
// the caller.
type last struct {
	found      *Rivals
	generation uint32
	changes    uint64
}

// NewReader returns a Reader of tables other than the caller's of that name, which is of the inet family.
// The namespace is an open file descriptor; zero: that of the calling thread.
func NewReader(netNS int, table string) *Reader { return &Reader{netNS: netNS, caller: table} }

// Close closes the reader's socket, if it has one. It can be read from again.
func (r *Reader) Close() error {
	if r.socket == nil {
		return nil
	}
	s := r.socket
	r.socket = nil
	return s.Close()
}

// ReadAfter returns what was read last, if nobody but the caller has changed a ruleset since:
// the generation has gone on by the number of changes that the caller has made. Else it reads.
func (r *Reader) ReadAfter(changes uint64) (*Rivals, error) {
	if r.last.found != nil && r.socket != nil {
		now, err := r.generation()
		if err == nil && uint64(now-r.last.generation) == changes-r.last.changes {
			return r.last.found, nil
		}
	}
	return r.Read(changes)
}

// Read reads what the other tables translate. The caller has changed its own table so many
// times, which only ReadAfter needs.
func (r *Reader) Read(changes uint64) (found *Rivals, err error) {
	r.last = last{}
	if r.socket == nil { // it is kept, since to make one takes longer than to read
		r.socket, err = nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: r.netNS})
		if err != nil {
			return nil, fmt.Errorf("read other tables: %w", err)
		}
		r.buffer = make([]byte, nlwire.LargestDatagram)
	}
	reading := reading{Reader: r, found: &Rivals{}, rules: map[chainName][]rule{}, sets: map[setName]*set{}}
	// Before the tables: what changes meanwhile is read again the next time.
	generation, err := r.generation()
	if err == nil {
		err = reading.read()
	}
	if err != nil { // what the socket still has to say would disturb
		return nil, errors.Join(fmt.Errorf("read other tables: %w", err), r.Close())
	}
	r.last = last{reading.found, generation, changes}
	return reading.found, nil
}

// generation returns the number of the last change of any ruleset of the namespace. It begins
// the time in which all has to be read.
func (r *Reader) generation() (generation uint32, err error) {
	if err := r.socket.SetReadDeadline(time.Now().Add(readTime)); err != nil {
		return 0, err
	}
	err = r.ask(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil, func(_ uint8, attrs []byte) error {
		generation, _ = nlwire.FindBE32(attrs, unix.NFTA_GEN_ID)
		return nil
	})
	return generation, err
}

// reading is one time that tables are read.
type reading struct {
	*Reader
	found  *Rivals
	rules  map[chainName][]rule
	count  int // of the rules
	visits int
	sets   map[setName]*set
}

type tableName struct {
	family uint8
	name   string
}

type chainName struct {
	tableName
	chain string
}

type setName struct {
	tableName
	set string
}

// baseChain is a chain that the kernel calls with packets.
type baseChain struct {
	chainName
	id       Base
	hook     Hook
	priority int32
}

// rule is the expressions of a rule, as the kernel lists them.
type rule []byte

// What x/sys does not name.
const (
	nftaTableHandle  = 4
	nftTableDormant  = 1
	nftaChainHookNum = unix.NFTA_HOOK_HOOKNUM
)

// ours is the priority of the caller's chains, at both hooks: NF_IP_PRI_NAT_DST in
// include/uapi/linux/netfilter_ipv4.h.
const ours = -100

func (r *reading) read() error {
	others := map[tableName]uint64{}
	err := r.dump(unix.NFT_MSG_GETTABLE, unix.AF_UNSPEC, nil, func(family uint8, attrs []byte) error {
		handle := nlwire.Find(attrs, nftaTableHandle)
		name := nlwire.FindString(attrs, unix.NFTA_TABLE_NAME)
		flags, _ := nlwire.FindBE32(attrs, unix.NFTA_TABLE_FLAGS)
		if len(handle) != 8 || flags&nftTableDormant != 0 {
			return nil
		}
		n := binary.BigEndian.Uint64(handle)
		switch family {
		case unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
			if family == unix.NFPROTO_INET && name == r.caller {
				r.found.Table = n
			} else {
				others[tableName{family, name}] = n
			}
		}
		return nil
	})
	if err != nil || len(others) == 0 {
		return err
	}
	bases, err := r.baseChains(others)
	if err != nil {
		return err
	}
	r.found.Bases = map[Base]bool{}
	for _, base := range bases {
		r.found.Bases[base.id] = true
		order := After
		switch {
		case base.priority < ours, base.priority == ours && base.id.Table > r.found.Table:
			order = Before
		case base.priority == ours:
			order = Unsure
		}
		r.visits = 0
		w := walk{reading: r, base: base, order: order}
		w.chain(base.chainName, []box{whole(familiesOf(base.family))}, 0)
	}
	return nil
}

func familiesOf(family uint8) families {
	switch family {
	case unix.NFPROTO_IPV4:
		return ipv4
	case unix.NFPROTO_IPV6:
		return ipv6
	}
	return ipv4 | ipv6
}

func familyName(family uint8) string {
	switch family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return "inet"
}

// baseChains lists the chains of these tables that translate destinations.
func (r *reading) baseChains(tables map[tableName]uint64) (bases []baseChain, err error) {
	err = r.dump(unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC, nil, func(family uint8, attrs []byte) error {
		c := baseChain{chainName: chainName{
			tableName{family, nlwire.FindString(attrs, unix.NFTA_CHAIN_TABLE)}, nlwire.FindString(attrs, unix.NFTA_CHAIN_NAME),
		}}
		hook := nlwire.Find(attrs, unix.NFTA_CHAIN_HOOK)
		if _, ok := tables[c.tableName]; !ok || hook == nil || nlwire.FindString(attrs, unix.NFTA_CHAIN_TYPE) != "nat" {
			return nil
		}
		number, ok := nlwire.FindBE32(hook, nftaChainHookNum)
		priority, okToo := nlwire.FindBE32(hook, unix.NFTA_HOOK_PRIORITY)
		if !ok || !okToo {
			return nil
		}
		switch number {
		case unix.NF_INET_PRE_ROUTING:
			c.hook = Prerouting
		case unix.NF_INET_LOCAL_OUT:
			c.hook = Output
		default:
			return nil
		}
		c.priority = int32(priority)
		if handle := nlwire.Find(attrs, unix.NFTA_CHAIN_HANDLE); len(handle) == 8 {
			c.id = Base{tables[c.tableName], binary.BigEndian.Uint64(handle)}
		}
		bases = append(bases, c)
		return nil
	})
	return bases, err
}

// rulesOf lists the rules of a chain. If they cannot be read, or are too many, there are none.
func (r *reading) rulesOf(c chainName) []rule {
	rules, ok := r.rules[c]
	if ok {
		return rules
	}
	names := nlwire.AppendString(nil, unix.NFTA_RULE_TABLE, c.name)
	names = nlwire.AppendString(names, unix.NFTA_RULE_CHAIN, c.chain)
	err := r.dump(unix.NFT_MSG_GETRULE, c.family, names, func(_ uint8, attrs []byte) error {
		if nlwire.FindString(attrs, unix.NFTA_RULE_CHAIN) != c.chain {
			return nil
		}
		if r.count++; r.count > maxRules {
			return errTooMany
		}
		rules = append(rules, append(rule{}, nlwire.Find(attrs, unix.NFTA_RULE_EXPRESSIONS)...))
		return nil
	})
	if err != nil {
		rules = nil
	}
	r.rules[c] = rules
	return rules
}

// dump asks for all objects of a kind, and calls each with their attributes.
func (r *Reader) dump(msg uint16, family uint8, names []byte, each func(family uint8, attrs []byte) error) error {
	return r.ask(msg, unix.NLM_F_DUMP, family, names, each)
}

// ask sends a request with flags. Without NLM_F_DUMP there is one answer.
func (r *Reader) ask(msg, flags uint16, family uint8, names []byte, each func(family uint8, attrs []byte) error) error {
	if r.socket == nil {
		return os.ErrClosed
	}
	r.seq++
	b, at := nlwire.OpenNetfilter(nil, unix.NFNL_SUBSYS_NFTABLES<<8|msg, flags, family, 0, r.seq)
	if err := r.socket.Send(nlwire.CloseMessage(append(b, names...), at)); err != nil {
		return err
	}
	var failed error
	for {
		n, err := r.socket.Receive(r.buffer, true)
		if err != nil {
			return err
		}
		m := nlwire.Messages{Data: r.buffer[:n]}
		for m.Next() {
			switch {
			case m.Seq != r.seq:
			case m.Type == unix.NLMSG_ERROR, m.Type == unix.NLMSG_DONE:
				if failed == nil && len(m.Payload) >= 4 {
					a, err := m.Answer()
					failed = errors.Join(err, a.Err())
				}
				return failed
			case failed == nil && len(m.Payload) >= nlwire.NetfilterHeader: // else it is read to its end
				failed = each(m.Payload[0], m.Payload[nlwire.NetfilterHeader:])
				if flags == 0 {
					return failed
				}
			}
		}
		if m.Err != nil {
			return m.Err
		}
	}
}

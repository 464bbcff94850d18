// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Reader reads the tables of nftables in a network namespace.
type Reader struct {
	// MaxRules bounds the rules of a chain; zero: there is no bound. For a longer one the error is ErrTooMany.
	MaxRules   int
	source     Source
	ctx        context.Context //nolint:containedctx // of what is read when it is asked for
	generation uint32
	objects    map[objectName]Object
	elements   map[*Set]list
}

// ErrTooMany means that a chain has more rules than a Reader is to read.
var ErrTooMany = errors.New("too many rules")

type objectName struct {
	table *Table
	typ   uint32
	name  string
}

// list is the first elements of a set.
type list struct {
	elements []Element
	more     bool
}

// Open returns a Reader of a network namespace, by an open file descriptor. Zero: that of the
// calling thread.
func Open(netNS int) (*Reader, error) {
	s, err := OpenSource(netNS)
	if err != nil {
		return nil, err
	}
	return NewReader(s), nil
}

// OpenSource returns the kernel as a Source of the rules of a network namespace.
func OpenSource(netNS int) (Source, error) {
	socket, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: netNS})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		err = errors.Join(err, errors.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for nftables: %w", err)
	}
	return &kernel{socket: socket}, nil
}

// NewReader returns a Reader of what a source answers, which it closes.
func NewReader(s Source) *Reader {
	return &Reader{source: s, ctx: context.Background(), objects: map[objectName]Object{}, elements: map[*Set]list{}}
}

// Close closes the source. What has been read stays.
func (r *Reader) Close() error { return r.source.Close() }

// attempts bounds how often a list is asked for that changes all the time, and pause is the time
// between, twice as long each time.
const (
	attempts = 6
	pause    = time.Millisecond
)

// dump asks for a list. Before it asks anew it calls restart.
func (r *Reader) dump(req Request, restart func(), each func(family uint8, attrs []byte) error) error {
	req.Dump = true
	err := errInterrupted
	for i := range attempts {
		if err := r.wait(i); err != nil {
			return err
		}
		restart()
		err = r.source.Ask(r.ctx, req, each)
		if !errors.Is(err, errInterrupted) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return err
}

// wait waits before an attempt, but for the first.
func (r *Reader) wait(attempt int) error {
	if attempt == 0 {
		return nil
	}
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-time.After(pause << attempt):
		return nil
	}
}

// Read lists tables, chains, sets and flow tables. Rules, elements and objects are read when they are
// asked for, and the context is for these as well.
func (r *Reader) Read(ctx context.Context) (*Ruleset, error) {
	r.ctx = ctx
	clear(r.objects)
	clear(r.elements)
	rs := &Ruleset{}
	// Lists are of one generation if it is the same before and after.
	for i := range attempts {
		if err := r.wait(i); err != nil {
			return nil, err
		}
		before, err := r.readGeneration()
		if err != nil {
			return nil, err
		}
		if err := r.list(rs); err != nil {
			return nil, err
		}
		after, err := r.readGeneration()
		if err != nil {
			return nil, err
		}
		rs.Generation, r.generation = before, before
		if before == after {
			return rs, nil
		}
	}
	return nil, fmt.Errorf("list tables of nftables: %w", errInterrupted)
}

func (r *Reader) readGeneration() (generation uint32, err error) {
	err = r.source.Ask(r.ctx, Request{Message: unix.NFT_MSG_GETGEN}, func(_ uint8, attrs []byte) error {
		generation, _ = nlwire.FindBE32(attrs, unix.NFTA_GEN_ID)
		return nil
	})
	if errors.Is(err, unix.EINVAL) { // there is no such subsystem of nfnetlink
		err = errors.Join(err, errors.ErrUnsupported)
	}
	if err != nil {
		return 0, fmt.Errorf("read generation of nftables: %w", err)
	}
	return generation, nil
}

// Generation returns the number of the last change of any ruleset of the namespace.
func (r *Reader) Generation(ctx context.Context) (uint32, error) {
	r.ctx = ctx
	return r.readGeneration()
}

// Changed reports whether anything has changed since Read.
func (r *Reader) Changed() (bool, error) {
	now, err := r.readGeneration()
	return now != r.generation, err
}

func (r *Reader) list(rs *Ruleset) error {
	if err := r.listTables(rs); err != nil || len(rs.Tables) == 0 {
		return err
	}
	if err := r.ListChains(rs); err != nil {
		return err
	}
	if err := r.ListSets(rs); err != nil {
		return err
	}
	return r.listFlowtables(rs)
}

// ListTables lists tables alone, for a caller who lists chains and sets when they are needed, and
// looks for changes by Generation. The context is for these as well.
func (r *Reader) ListTables(ctx context.Context) (*Ruleset, error) {
	r.ctx = ctx
	clear(r.objects)
	clear(r.elements)
	generation, err := r.readGeneration()
	if err != nil {
		return nil, err
	}
	r.generation = generation
	rs := &Ruleset{Generation: generation}
	return rs, r.listTables(rs)
}

func (r *Reader) listTables(rs *Ruleset) error {
	err := r.dump(Request{Message: unix.NFT_MSG_GETTABLE}, func() { rs.Tables = nil }, func(family uint8, attrs []byte) error {
		t := decodeTable(family, attrs)
		t.reader = r
		rs.Tables = append(rs.Tables, t)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list tables of nftables: %w", err)
	}
	return nil
}

// within lists objects of the tables of a ruleset. Those of a table that has come since are left out: the
// generation tells.
func (r *Reader) within(rs *Ruleset, message uint16, what string, restart func(t *Table), nameAttr uint16, each func(t *Table, attrs []byte)) error {
	type tableName struct {
		family Family
		name   string
	}
	tables := make(map[tableName]*Table, len(rs.Tables))
	for _, t := range rs.Tables {
		tables[tableName{t.Family, t.Name}] = t
	}
	err := r.dump(Request{Message: message}, func() {
		for _, t := range rs.Tables {
			restart(t)
		}
	}, func(family uint8, attrs []byte) error {
		if t := tables[tableName{Family(family), nlwire.FindString(attrs, nameAttr)}]; t != nil {
			each(t, attrs)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s of nftables: %w", what, err)
	}
	return nil
}

// ListChains lists the chains of the tables.
func (r *Reader) ListChains(rs *Ruleset) error {
	return r.within(rs, unix.NFT_MSG_GETCHAIN, "chains", func(t *Table) { t.Chains, t.chains = nil, map[string]*Chain{} }, unix.NFTA_CHAIN_TABLE,
		func(t *Table, attrs []byte) {
			c := decodeChain(attrs)
			c.Table = t
			t.Chains = append(t.Chains, c)
			t.chains[c.Name] = c
		})
}

// ListSets lists the sets of the tables.
func (r *Reader) ListSets(rs *Ruleset) error {
	return r.within(rs, unix.NFT_MSG_GETSET, "sets", func(t *Table) { t.Sets = map[string]*Set{} }, unix.NFTA_SET_TABLE,
		func(t *Table, attrs []byte) {
			s := decodeSet(attrs)
			s.Table = t
			t.Sets[s.Name] = s
		})
}

func (r *Reader) listFlowtables(rs *Ruleset) error {
	return r.within(rs, unix.NFT_MSG_GETFLOWTABLE, "flow tables", func(t *Table) { t.Flowtables = map[string]*Flowtable{} }, nftaFlowtableTable,
		func(t *Table, attrs []byte) {
			f := decodeFlowtable(attrs)
			t.Flowtables[f.Name] = f
		})
}

// Rules returns the rules of a chain, in their order. They are read once. Those of a legacy
// table it has.
func (r *Reader) Rules(c *Chain) ([]*Rule, error) {
	if c.read || c.Table.Legacy {
		return c.Rules, nil
	}
	names := nlwire.AppendString(nil, unix.NFTA_RULE_TABLE, c.Table.Name)
	names = nlwire.AppendString(names, unix.NFTA_RULE_CHAIN, c.Name)
	var rules []*Rule
	known := expressions{}
	err := r.dump(Request{Message: unix.NFT_MSG_GETRULE, Family: uint8(c.Table.Family), Attrs: names}, func() { rules = nil },
		func(_ uint8, attrs []byte) error {
			switch {
			case nlwire.FindString(attrs, unix.NFTA_RULE_CHAIN) != c.Name:
			case r.MaxRules != 0 && len(rules) == r.MaxRules:
				return ErrTooMany
			default:
				rules = append(rules, decodeRule(c, len(rules), attrs, known))
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("list rules of table %s %s chain %s: %w", c.Table.Family, c.Table.Name, c.Name, err)
	}
	c.Rules, c.read = rules, true
	return rules, nil
}

// Get looks one key up in a set, as a lookup expression does: an interval has the keys in it, and the
// element for all others has those that nothing else has. False: the set does not have it.
func (r *Reader) Get(s *Set, key []byte) (Element, bool, error) {
	if len(key) != int(s.KeyLen) {
		return Element{}, false, fmt.Errorf("look up in set %s: the key has %d bytes, and not %d", s.Name, len(key), s.KeyLen)
	}
	e, ok, err := r.get(s, func(b []byte) []byte { return appendKey(b, key) })
	if err == nil && !ok {
		e, ok, err = r.get(s, func(b []byte) []byte {
			return nlwire.AppendBE32(b, unix.NFTA_SET_ELEM_FLAGS, setElemCatchall)
		})
	}
	if err != nil {
		return Element{}, false, fmt.Errorf("look up in set %s of table %s %s: %w", s.Name, s.Table.Family, s.Table.Name, err)
	}
	return e, ok, nil
}

func appendKey(b, key []byte) []byte {
	b, at := nlwire.OpenAttr(b, unix.NFTA_SET_ELEM_KEY|nlwire.Nested)
	return nlwire.CloseAttr(nlwire.AppendAttr(b, unix.NFTA_DATA_VALUE, key...), at)
}

func setNames(s *Set) []byte {
	b := nlwire.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
	return nlwire.AppendString(b, unix.NFTA_SET_ELEM_LIST_SET, s.Name)
}

func (r *Reader) get(s *Set, element func([]byte) []byte) (e Element, ok bool, err error) {
	b, list := nlwire.OpenAttr(setNames(s), unix.NFTA_SET_ELEM_LIST_ELEMENTS|nlwire.Nested)
	b, at := nlwire.OpenAttr(b, unix.NFTA_LIST_ELEM|nlwire.Nested)
	b = nlwire.CloseAttr(nlwire.CloseAttr(element(b), at), list)
	err = r.source.Ask(r.ctx, Request{Message: unix.NFT_MSG_GETSETELEM, Family: uint8(s.Table.Family), Attrs: b}, func(_ uint8, attrs []byte) error {
		elements := nlwire.Attrs{Data: nlwire.Find(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}
		if !elements.Next() {
			return nlwire.ErrMalformed
		}
		if e, ok = decodeElement(elements.Payload); !ok {
			return nlwire.ErrMalformed
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return Element{}, false, nil
	}
	return e, ok, err
}

// errEnough ends a list.
var errEnough = errors.New("enough")

// Elements lists the elements of a set, at most so many, in the order of the kernel, and reports whether there
// are more. Intervals of one field come as two elements, of which one is an IntervalEnd.
func (r *Reader) Elements(s *Set, limit int) (elements []Element, more bool, err error) {
	if l, ok := r.elements[s]; ok && (len(l.elements) >= limit || !l.more) {
		n := min(limit, len(l.elements))
		return l.elements[:n], l.more || n < len(l.elements), nil
	}
	err = r.dump(Request{Message: unix.NFT_MSG_GETSETELEM, Family: uint8(s.Table.Family), Attrs: setNames(s)}, func() { elements, more = nil, false },
		func(_ uint8, attrs []byte) error {
			list := nlwire.Attrs{Data: nlwire.Find(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}
			for list.Next() {
				if len(elements) == limit {
					more = true
					return errEnough
				}
				e, ok := decodeElement(list.Payload)
				if !ok {
					return nlwire.ErrMalformed
				}
				elements = append(elements, e)
			}
			return list.Err
		})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, false, fmt.Errorf("list elements of set %s of table %s %s: %w", s.Name, s.Table.Family, s.Table.Name, err)
	}
	r.elements[s] = list{elements, more}
	return elements, more, nil
}

// Object returns what a named object is, by its type NFT_OBJECT_*.
func (r *Reader) Object(t *Table, typ uint32, name string) (o Object, err error) {
	id := objectName{t, typ, name}
	if o, ok := r.objects[id]; ok {
		return o, nil
	}
	b := nlwire.AppendString(nil, unix.NFTA_OBJ_TABLE, t.Name)
	b = nlwire.AppendString(b, unix.NFTA_OBJ_NAME, name)
	b = nlwire.AppendBE32(b, unix.NFTA_OBJ_TYPE, typ)
	err = r.source.Ask(r.ctx, Request{Message: unix.NFT_MSG_GETOBJ, Family: uint8(t.Family), Attrs: b}, func(_ uint8, attrs []byte) error {
		o = decodeObject(attrs)
		return nil
	})
	if err != nil {
		return Object{}, fmt.Errorf("read object %s of table %s %s: %w", name, t.Family, t.Name, err)
	}
	r.objects[id] = o
	return o, nil
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Get returns the elements of the table that have the keys, in the order of the keys. The
// kernel looks each up by itself, so that what Get costs does not grow with the map. What is
// not there is left out, also if its set or the table is not there. Of sets of intervals those of
// ranges can be asked, by a range of one port: the element is the range that has it.
//
// The elements may be of different states of the table, unless its Generation is the same
// before and after.
func (c *Conn) Get(t Table, keys ...ElementKey) ([]Element, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var es []Element
	for _, k := range keys {
		set, ok := t.Set(k.Set)
		if !ok || set.Interval && set.holds() != rangeKey {
			return nil, fmt.Errorf("get element: table %s has no map or set %s without intervals of addresses", t.Name, k.Set)
		}
		if err := set.checkKey(&k.Key); err != nil {
			return nil, fmt.Errorf("get element %s { %s }: %w", k.Set, k.Key, err)
		}
		get := c.get
		if set.isTree() {
			get = c.getFromTree
		}
		switch e, err := get(t.Name, &set, &k.Key); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			es = append(es, e)
		}
	}
	return es, nil
}

// getFromTree returns the range of a tree that has the first port of the key.
//
// The kernel returns one end of a range at a time: the beginning for a port, and with a flag the
// end behind it. For a port where a range begins, that is the end of this one since Linux 6.18,
// and before it that of the range before, or the beginning. A port that is within the range has
// but one answer.
func (c *Conn) getFromTree(table string, set *Set, k *Key) (Element, error) {
	e, err := c.getPlace(table, set, startKey, k.port)
	if err != nil {
		return e, err
	}
	first, within := e.Key.port, k.port
	if within == first && within != lastPort {
		within++
		next, err := c.getPlace(table, set, startKey, within)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return e, err
		}
		if err != nil || next.Key.port != first {
			e.Key = PortRangeKey(first, first)
			return e, nil
		}
	}
	if within == lastPort {
		e.Key = PortRangeKey(first, lastPort)
		return e, nil
	}
	end, err := c.getPlace(table, set, endKey, within)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Key = PortRangeKey(first, lastPort)
		return e, nil
	case err != nil:
		return e, err
	}
	e.Key, err = joined(&e.Key, &end.Key)
	return e, err
}

// getPlace returns a beginning or an end.
func (c *Conn) getPlace(table string, set *Set, kind keyKind, port uint16) (Element, error) {
	e, err := c.get(table, set, &Key{kind: kind, port: port})
	if err == nil && e.Key.kind != kind {
		err = fmt.Errorf("get element %s { %d }: %w", set.Name, port, fs.ErrNotExist)
	}
	return e, err
}

func (c *Conn) get(table string, set *Set, k *Key) (e Element, err error) {
	seq, flags := c.nextSeq(1), uint16(0)
	if k.kind == endKey {
		// If there is no end, Linux 6.18 sends no element and no error.
		flags = unix.NLM_F_ACK
	}
	b, message := nlwire.OpenNetfilter(nil, nftType(unix.NFT_MSG_GETSETELEM), flags, unix.NFPROTO_INET, 0, seq)
	b = appendNames(b, []string{table, set.Name})
	b, list := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	b, member := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
	if k.kind == endKey {
		b = set.appendEnd(b, k)
	} else {
		b = set.appendKey(b, k)
	}
	b = nlwire.CloseAttr(nlwire.CloseAttr(b, member), list)
	what := fmt.Sprintf("get element %s { %s }", set.Name, k)
	if err := c.socket.Send(nlwire.CloseMessage(b, message)); err != nil {
		return e, opError(what, err)
	}
	err = c.answer(what, seq, func(a nlwire.Attrs) error {
		member := nlwire.Find(nlwire.Find(a.Data, unix.NFTA_SET_ELEM_LIST_ELEMENTS), unix.NFTA_LIST_ELEM)
		return set.decodeElement(&e, member)
	})
	if err == nil && e.Set == "" {
		err = fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	}
	return e, err
}

// Filter returns those elements of a map or set that keep accepts, as [Conn.Elements] does,
// and only these take memory. It is for sets without time-outs, and not for sets of prefixes or
// of ports alone, whose elements come in two halves.
func (c *Conn) Filter(t Table, name string, keep func(*Element) bool) ([]Element, error) {
	set, ok := t.Set(name)
	if !ok || set.Timeout || set.isTree() {
		return nil, fmt.Errorf("list elements: table %s has no such map or set %s", t.Name, name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var es []Element
	_, err := c.readConsistent("list elements of "+set.Kind()+" "+name, t.Name, func() error {
		es = es[:0]
		_, err := c.dumpElements(t.Name, set, func(e *Element) error {
			if keep(e) {
				es = append(es, *e)
			}
			return nil
		})
		return err
	})
	return es, err
}

// errEnough ends a dump that is not read to its end. The socket can only be closed then.
var errEnough = errors.New("enough was read")

// Sample returns up to limit elements of a map or set, in no order, and whether these are all.
// It reads not many more than that, on a socket of its own. If the table changes meanwhile,
// some may be missing or come twice. Of intervals only sets of concatenations can be asked.
func Sample(cfg *Config, t Table, name string, limit int) (es []Element, all bool, err error) {
	set, ok := t.Set(name)
	if !ok || set.isTree() {
		return nil, false, fmt.Errorf("list elements: table %s has no such map or set %s", t.Name, name)
	}
	c, err := Dial(cfg)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = c.dumpElements(t.Name, set, func(e *Element) error {
		if len(es) == limit {
			return errEnough
		}
		es = append(es, *e)
		return nil
	})
	if errors.Is(err, errEnough) || errors.Is(err, errChanged) {
		return es, false, nil
	}
	return es, err == nil, err
}

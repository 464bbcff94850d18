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
// not there is left out, also if its set or the table is not there. Sets of intervals cannot be
// asked.
//
// The elements may be of different states of the table, unless its Generation is the same
// before and after.
func (c *Conn) Get(t Table, keys ...ElementKey) ([]Element, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var es []Element
	for _, k := range keys {
		set, ok := t.Set(k.Set)
		if !ok || set.Interval {
			return nil, fmt.Errorf("get element: table %s has no map or set %s without intervals", t.Name, k.Set)
		}
		if err := set.checkKey(&k.Key); err != nil {
			return nil, fmt.Errorf("get element %s { %s }: %w", k.Set, k.Key, err)
		}
		switch e, err := c.get(t.Name, &set, &k.Key); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			es = append(es, e)
		}
	}
	return es, nil
}

func (c *Conn) get(table string, set *Set, k *Key) (e Element, err error) {
	seq := c.nextSeq(1)
	b, message := nlwire.OpenNetfilter(nil, nftType(unix.NFT_MSG_GETSETELEM), 0, unix.NFPROTO_INET, 0, seq)
	b = appendNames(b, []string{table, set.Name})
	b, list := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	b, member := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
	b = set.openElement(b, k)
	b = nlwire.CloseAttr(nlwire.CloseAttr(b, member), list)
	what := fmt.Sprintf("get element %s { %s }", set.Name, k)
	if err := c.socket.Send(nlwire.CloseMessage(b, message)); err != nil {
		return e, opError(what, err)
	}
	err = c.answer(what, seq, func(a nlwire.Attrs) error {
		member := nlwire.Find(nlwire.Find(a.Data, unix.NFTA_SET_ELEM_LIST_ELEMENTS), unix.NFTA_LIST_ELEM)
		return set.decodeElement(&e, member)
	})
	return e, err
}

// Filter returns those elements of a map or set that keep accepts, as [Conn.Elements] does,
// and only these take memory. It is for sets without time-outs, and not for sets of prefixes,
// whose elements come in two halves.
func (c *Conn) Filter(t Table, name string, keep func(*Element) bool) ([]Element, error) {
	set, ok := t.Set(name)
	if !ok || set.Timeout || set.holds() == prefixKey {
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
// some may be missing or come twice. Sets of prefixes cannot be asked.
func Sample(cfg *Config, t Table, name string, limit int) (es []Element, all bool, err error) {
	set, ok := t.Set(name)
	if !ok || set.holds() == prefixKey {
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

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// set is a set or map with its elements.
type set struct {
	keyLen   int
	elements []element
	bad      bool // it could not be read, or is too large
}

// element is one element, or an interval of keys.
type element struct {
	low, high []byte // keys; nil: all that no other element has
	// closed is whether the kernel has said which key is the highest, as for concatenations.
	closed  bool
	verdict verdict
}

// verdict is what becomes of a packet.
type verdict struct {
	known bool
	code  int32
	chain string
}

const (
	nftaSetElemKeyEnd  = 10
	setElemIntervalEnd = 1
	setElemCatchall    = 2
)

// setOf reads a set. If that fails, it is bad.
func (r *reading) setOf(name setName) *set {
	if s, ok := r.sets[name]; ok {
		return s
	}
	s := &set{bad: true}
	r.sets[name] = s
	table := nlwire.AppendString(nil, unix.NFTA_SET_TABLE, name.name)
	names := nlwire.AppendString(slices.Clone(table), unix.NFTA_SET_NAME, name.set)
	flags, found := uint32(0), false
	// The kernel has no list of one set, but those of a table.
	err := r.dump(unix.NFT_MSG_GETSET, name.family, table, func(_ uint8, attrs []byte) error {
		if nlwire.FindString(attrs, unix.NFTA_SET_NAME) == name.set {
			keyLen, _ := nlwire.FindBE32(attrs, unix.NFTA_SET_KEY_LEN)
			flags, _ = nlwire.FindBE32(attrs, unix.NFTA_SET_FLAGS)
			s.keyLen, found = int(keyLen), true
		}
		return nil
	})
	if err != nil || !found || s.keyLen == 0 {
		return s
	}
	var ends [][]byte // of intervals that are no concatenations
	err = r.dump(unix.NFT_MSG_GETSETELEM, name.family, names, func(_ uint8, attrs []byte) error {
		list := nlwire.Attrs{Data: nlwire.Find(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}
		for list.Next() {
			if len(s.elements)+len(ends) >= maxElements {
				return errTooMany
			}
			e, isEnd, err := readElement(list.Payload, s.keyLen)
			switch {
			case err != nil:
				return err
			case isEnd:
				ends = append(ends, e.low)
			default:
				s.elements = append(s.elements, e)
			}
		}
		return list.Err
	})
	if err != nil {
		return s
	}
	s.bad = false
	if flags&unix.NFT_SET_INTERVAL != 0 {
		s.closeIntervals(ends)
	}
	return s
}

func readElement(b []byte, keyLen int) (e element, isEnd bool, err error) {
	value := func(typ uint16) []byte {
		return bytes.Clone(nlwire.Find(nlwire.Find(b, typ), unix.NFTA_DATA_VALUE))
	}
	flags, _ := nlwire.FindBE32(b, unix.NFTA_SET_ELEM_FLAGS)
	if flags&setElemCatchall == 0 {
		e.low = value(unix.NFTA_SET_ELEM_KEY)
		e.high = value(nftaSetElemKeyEnd)
		if e.closed = e.high != nil; !e.closed {
			e.high = e.low
		}
		if len(e.low) != keyLen || len(e.high) != keyLen {
			return element{}, false, nlwire.ErrMalformed
		}
	}
	e.verdict = readVerdict(nlwire.Find(nlwire.Find(b, unix.NFTA_SET_ELEM_DATA), unix.NFTA_DATA_VERDICT))
	return e, flags&setElemIntervalEnd != 0, nil
}

func readVerdict(b []byte) verdict {
	code, ok := nlwire.FindBE32(b, unix.NFTA_VERDICT_CODE)
	return verdict{known: ok, code: int32(code), chain: nlwire.FindString(b, unix.NFTA_VERDICT_CHAIN)}
}

// closeIntervals gives each element that begins an interval the key before its end, which may
// be where the next one begins.
func (s *set) closeIntervals(ends [][]byte) {
	for _, e := range s.elements {
		if e.low != nil && !e.closed {
			ends = append(ends, e.low)
		}
	}
	slices.SortFunc(ends, bytes.Compare)
	for i := range s.elements {
		e := &s.elements[i]
		if e.low == nil || e.closed {
			continue
		}
		n, _ := slices.BinarySearchFunc(ends, e.low, func(end, low []byte) int {
			if bytes.Compare(end, low) <= 0 {
				return -1
			}
			return 1
		})
		if n == len(ends) {
			e.high = bytes.Repeat([]byte{0xff}, len(e.low)) // up to the last key
			continue
		}
		e.high = before(ends[n])
	}
}

// before returns the key before a key, or the last one.
func before(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]--
		if key[i] != 0xff {
			break
		}
	}
	return key
}

// after returns the key after a key, or the first one.
func after(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]++
		if key[i] != 0 {
			break
		}
	}
	return key
}

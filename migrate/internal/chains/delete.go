// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Deletion deletes a rule, or an element of a map that has a name.
type Deletion struct {
	message uint16
	family  uint8
	attrs   []byte
	what    string
}

// RuleOf returns the deletion of a rule.
func RuleOf(r *Rule) Deletion {
	b := nlwire.AppendString(nil, unix.NFTA_RULE_TABLE, r.Chain.Table.plainName())
	b = nlwire.AppendString(b, unix.NFTA_RULE_CHAIN, r.Chain.Name)
	b = nlwire.AppendBE64(b, unix.NFTA_RULE_HANDLE, r.Handle)
	return Deletion{unix.NFT_MSG_DELRULE, r.Chain.Table.Family, b, r.Address()}
}

const setElemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END

// ElementOf returns the deletion of the element of which a rule is.
func ElementOf(r *Rule) Deletion {
	b := nlwire.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, r.Chain.Table.plainName())
	b = nlwire.AppendString(b, unix.NFTA_SET_ELEM_LIST_SET, r.Map)
	b, list := nlwire.OpenAttr(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS|nlwire.Nested)
	element := func(key []byte, typ uint16, flags uint32) {
		var at, value int
		b, at = nlwire.OpenAttr(b, unix.NFTA_LIST_ELEM|nlwire.Nested)
		b, value = nlwire.OpenAttr(b, typ|nlwire.Nested)
		b = nlwire.CloseAttr(nlwire.AppendAttr(b, unix.NFTA_DATA_VALUE, key...), value)
		if r.KeyEnd != nil && r.keyEndInElement {
			b, value = nlwire.OpenAttr(b, setElemKeyEnd|nlwire.Nested)
			b = nlwire.CloseAttr(nlwire.AppendAttr(b, unix.NFTA_DATA_VALUE, r.KeyEnd...), value)
		}
		if flags != 0 {
			b = nlwire.AppendBE32(b, unix.NFTA_SET_ELEM_FLAGS, flags)
		}
		b = nlwire.CloseAttr(b, at)
	}
	element(r.Key, unix.NFTA_SET_ELEM_KEY, 0)
	if r.KeyEnd != nil && !r.keyEndInElement { // an interval of one field is two elements
		if end := next(r.KeyEnd); end != nil {
			element(end, unix.NFTA_SET_ELEM_KEY, unix.NFT_SET_ELEM_INTERVAL_END)
		}
	}
	b = nlwire.CloseAttr(b, list)
	return Deletion{unix.NFT_MSG_DELSETELEM, r.Chain.Table.Family, b, "element " + r.Element() + " of map " + r.Map}
}

// next returns the key behind a key; nil: it is the last one.
func next(key []byte) []byte {
	key = append([]byte{}, key...)
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]++; key[i] != 0 {
			return key
		}
	}
	return nil
}

// Element names the element of which a rule is.
func (r *Rule) Element() string { return hex.EncodeToString(r.Key) }

// plainName is the name without the family.
func (t *Table) plainName() string {
	for i := range t.Name {
		if t.Name[i] == ' ' {
			return t.Name[i+1:]
		}
	}
	return t.Name
}

const batchGenID = 1 // NFNL_BATCH_GENID

// Delete makes deletions in one transaction, which the kernel refuses with ERESTART if its
// generation is another one.
func Delete(netNS int, generation uint32, list []Deletion) (err error) {
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: netNS, ReceiveBuffer: 1 << 20})
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	seq := uint32(1)
	b, at := nlwire.OpenNetfilter(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, seq)
	b = nlwire.CloseMessage(nlwire.AppendBE32(b, batchGenID, generation), at)
	last := 0
	for _, d := range list {
		seq++
		last = len(b)
		b, at = nlwire.OpenNetfilter(b, unix.NFNL_SUBSYS_NFTABLES<<8|d.message, 0, d.family, 0, seq)
		b = nlwire.CloseMessage(append(b, d.attrs...), at)
	}
	// Only the last one is acknowledged; others answer if they fail.
	flags := b[last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	b, at = nlwire.OpenNetfilter(b, unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, seq+1)
	if err := s.Send(nlwire.CloseMessage(b, at)); err != nil {
		return err
	}
	return answers(s, list, seq)
}

// answers reads what the kernel has queued: the first error is that of the transaction.
func answers(s *nlwire.Socket, list []Deletion, last uint32) (failed error) {
	buf := make([]byte, nlwire.LargestDatagram)
	acknowledged := false
	for {
		n, err := s.Receive(buf, false)
		if errors.Is(err, unix.EAGAIN) {
			if failed == nil && !acknowledged {
				failed = errors.New("the kernel has not answered")
			}
			return failed
		}
		if err != nil {
			return errors.Join(failed, err)
		}
		m := nlwire.Messages{Data: buf[:n]}
		for m.Next() {
			if m.Type != unix.NLMSG_ERROR {
				continue
			}
			a, err := m.Answer()
			if err = errors.Join(err, a.Err()); err == nil {
				acknowledged = acknowledged || m.Seq == last
				continue
			}
			if i := int(m.Seq) - 2; failed == nil && i >= 0 && i < len(list) {
				err = fmt.Errorf("delete %s: %w", list[i].what, err)
			}
			if failed == nil {
				failed = err
			}
		}
	}
}

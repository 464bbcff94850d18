// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// batch is one transaction: the bytes to send, and what each message is about, so that an
// error can name its object.
type batch struct {
	buf []byte
	seq uint32 // of the first message; those of the operations follow
	ops []op
	// sets counts the maps and sets that were added: each has an identifier of its own.
	sets uint32
}

// op is one message of a batch.
type op struct {
	at     int // where the message begins in the batch
	verb   string
	object string
	// set is there where the message carries elements, which are then found
	// in the message itself.
	set *Set
	// rule is there where the object is a rule, which is printed when it is needed.
	rule *chainRule
}

// chainRule is a rule and its chain.
type chainRule struct {
	chain string
	Rule
}

// smallBatch has room for a change of one element.
const smallBatch = 512

// newBatch begins a transaction. The kernel refuses it with ERESTART if its ruleset is at
// another generation; zero: at any (valid_genid in net/netfilter/nfnetlink.c).
func newBatch(seq, generation uint32) *batch {
	b := &batch{seq: seq}
	buf, at := nlwire.OpenNetfilter(make([]byte, 0, smallBatch), unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, seq)
	if generation != 0 {
		buf = nlwire.AppendBE32(buf, unix.NFNL_BATCH_GENID, generation)
	}
	b.buf = nlwire.CloseMessage(buf, at)
	return b
}

// open begins the message of an operation with the names that appendNames appends. done
// ends it.
func (b *batch) open(msg, flags uint16, o op, names ...string) {
	seq := b.seq + uint32(len(b.ops)) + 1
	b.buf, o.at = nlwire.OpenNetfilter(b.buf, nftType(msg), flags, unix.NFPROTO_INET, 0, seq)
	b.buf = appendNames(b.buf, names)
	b.ops = append(b.ops, o)
}

func (b *batch) done() { nlwire.CloseMessage(b.buf, b.ops[len(b.ops)-1].at) }

// finish ends the transaction and asks for an acknowledgement of the last operation, which
// tells the outcome. One for each operation of a large batch would overflow the receive
// buffer (nfnl_err_deliver sends them all at once, at the end).
func (b *batch) finish() {
	last := b.buf[b.ops[len(b.ops)-1].at:]
	flags := binary.NativeEndian.Uint16(last[6:])
	binary.NativeEndian.PutUint16(last[6:], flags|unix.NLM_F_ACK)
	buf, at := nlwire.OpenNetfilter(b.buf, unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, b.lastSeq()+1)
	b.buf = nlwire.CloseMessage(buf, at)
}

func (b *batch) lastSeq() uint32 { return b.seq + uint32(len(b.ops)) }

// op returns the operation that a sequence number belongs to.
func (b *batch) op(seq uint32) (op, bool) {
	i := seq - b.seq - 1
	if seq <= b.seq || int(i) >= len(b.ops) {
		return op{}, false
	}
	return b.ops[i], true
}

// failure is the error of an operation that the kernel refused.
func (b *batch) failure(o op, a nlwire.Answer) error {
	e := &OpError{Op: o.verb, Object: o.object, Err: a.Err()}
	switch {
	case o.set != nil:
		e.Object = b.refusedElement(o, a.Offset)
	case o.rule != nil:
		e.Object = fmt.Sprintf("%s { %s }", o.rule.chain, o.rule.Rule)
	}
	return e
}

// refusedElement names the element at the kernel's offset into the message.
func (b *batch) refusedElement(o op, offset uint32) string {
	msg := b.buf[o.at:]
	msg = msg[:binary.NativeEndian.Uint32(msg)]
	list := nlwire.Find(msg[nlwire.MessageHeader+nlwire.NetfilterHeader:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	if list == nil {
		return o.object
	}
	begin := len(msg) - len(list) // the list is the message's last attribute
	if offset != 0 && offset < uint32(begin) {
		return o.object // the table or the set is not there
	}
	count := 0
	for a := (nlwire.Attrs{Data: list}); ; count++ {
		key, end := o.set.next(&a)
		if key == nil {
			break
		}
		behind := len(msg) - len(a.Data)
		if offset >= uint32(begin) && offset < uint32(behind) || count == 0 && len(a.Data) == 0 {
			return o.set.describe(key, end)
		}
		begin = behind
	}
	return fmt.Sprintf("%s: one of %d elements", o.object, count)
}

// describe prints an element of a request. That of a deletion has the key alone.
func (c Set) describe(key, end []byte) string {
	if nlwire.Find(key, unix.NFTA_SET_ELEM_DATA) == nil {
		c.Value = nil
	}
	var e Element
	if err := c.decodeNext(&e, key, end); err != nil {
		return c.Name
	}
	return e.String()
}

// ensureTable makes sure that there is a table of that name. An existing one keeps
// its flags, which a message that has any would replace.
func (b *batch) ensureTable(name string) {
	b.open(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, op{verb: "add table", object: "inet " + name}, name)
	b.done()
}

// addTable makes the table, which must not be there.
func (b *batch) addTable(name, comment, tag string, flags TableFlags) {
	b.open(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, op{verb: "add table", object: "inet " + name}, name)
	b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_TABLE_FLAGS, uint32(flags))
	var udata []byte
	if comment != "" {
		udata = appendComment(udata, comment)
	}
	if tag != "" {
		udata = append(append(udata, udataTag, byte(len(tag))), tag...)
	}
	if len(udata) != 0 {
		b.buf = nlwire.AppendAttr(b.buf, nftaTableUserdata, udata...)
	}
	b.done()
}

// setFlags gives an existing table those flags.
func (b *batch) setFlags(verb, name string, flags TableFlags) {
	b.open(unix.NFT_MSG_NEWTABLE, 0, op{verb: verb, object: "inet " + name}, name)
	b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_TABLE_FLAGS, uint32(flags))
	b.done()
}

// deleteTable deletes the table of a name, or only the one that has the handle too.
func (b *batch) deleteTable(name string, handle uint64) {
	b.open(unix.NFT_MSG_DELTABLE, 0, op{verb: "delete table", object: "inet " + name}, name)
	if handle != 0 {
		b.buf = nlwire.AppendBE64(b.buf, nftaTableHandle, handle)
	}
	b.done()
}

// deleteRules deletes the rules of all chains.
func (b *batch) deleteRules(table string) {
	b.open(unix.NFT_MSG_DELRULE, 0, op{verb: "delete rules", object: "inet " + table}, table)
	b.done()
}

func (b *batch) deleteSet(table, name string) {
	b.open(unix.NFT_MSG_DELSET, 0, op{verb: "delete set", object: shown(name)}, table, name)
	b.done()
}

func (b *batch) deleteChain(table, name string) {
	b.open(unix.NFT_MSG_DELCHAIN, 0, op{verb: "delete chain", object: shown(name)}, table)
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_CHAIN_NAME, name)
	b.done()
}

func (b *batch) addSet(table string, c Set) {
	b.sets++
	b.open(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, op{verb: "add " + c.Kind(), object: c.Name}, table, c.Name)
	b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_SET_FLAGS, c.flags())
	b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_SET_KEY_TYPE, c.Key.id())
	b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_SET_KEY_LEN, uint32(c.Key.size()))
	if c.Value != nil {
		b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_SET_DATA_TYPE, c.Value.id())
		b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_SET_DATA_LEN, uint32(c.Value.size()))
	}
	b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_SET_ID, b.sets)
	b.buf = c.appendDescription(b.buf)
	if udata := c.hostOrder(); len(udata) != 0 {
		b.buf = nlwire.AppendAttr(b.buf, unix.NFTA_SET_USERDATA, udata...)
	}
	b.done()
}

// flags are those of enum nft_set_flags.
func (c Set) flags() uint32 {
	var f uint32
	if c.Value != nil {
		f |= unix.NFT_SET_MAP
	}
	if c.Timeout {
		f |= unix.NFT_SET_TIMEOUT
	}
	if c.Interval {
		f |= unix.NFT_SET_INTERVAL
		if len(c.Key) > 1 {
			f |= nftSetConcat
		}
	}
	return f
}

// appendDescription appends what decides the set's data structure: its size, and for ranges
// of a concatenation the length of each field (nft_pipapo_init in
// net/netfilter/nft_set_pipapo.c).
func (c Set) appendDescription(b []byte) []byte {
	concat := c.Interval && len(c.Key) > 1
	if c.Size == 0 && !concat {
		return b
	}
	b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_SET_DESC)
	if c.Size != 0 {
		b = nlwire.AppendBE32(b, unix.NFTA_SET_DESC_SIZE, c.Size)
	}
	if concat {
		var fields int
		b, fields = nlwire.OpenAttr(b, nlwire.Nested|nftaSetDescConcat)
		for _, d := range c.Key {
			var field int
			b, field = nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
			b = nlwire.AppendBE32(b, nftaSetFieldLen, uint32(dataTypes[d].size))
			b = nlwire.CloseAttr(b, field)
		}
		b = nlwire.CloseAttr(b, fields)
	}
	return nlwire.CloseAttr(b, at)
}

// hostOrder tells nft(8) which bytes are in the order of the host, as those of its strings and
// marks are: those of the keys, of the values, or none. Without that it lists strings as empty,
// and the bytes of marks in the wrong order (netlink_delinearize_set in nftables'
// src/netlink.c).
func (c Set) hostOrder() (udata []byte) {
	if c.Key.isInterface() || c.Key.isMark() {
		udata = append(udata, udataKeyByteOrder, 4)
		udata = append(udata, host32(byteOrderHost)...)
	}
	if c.Value.isMark() {
		udata = append(udata, udataDataByteOrder, 4)
		udata = append(udata, host32(byteOrderHost)...)
	}
	return udata
}

func (b *batch) addChain(table string, c Chain) {
	b.open(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, op{verb: "add chain", object: c.Name}, table)
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook != (Hook{}) {
		var at int
		b.buf, at = nlwire.OpenAttr(b.buf, nlwire.Nested|unix.NFTA_CHAIN_HOOK)
		b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_HOOK_HOOKNUM, hookNumbers[c.Hook.Point])
		b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))
		b.buf = nlwire.CloseAttr(b.buf, at)
		b.buf = nlwire.AppendBE32(b.buf, unix.NFTA_CHAIN_POLICY, nfAccept)
		b.buf = nlwire.AppendString(b.buf, unix.NFTA_CHAIN_TYPE, c.Hook.Type)
	}
	if c.Comment != "" {
		b.buf = nlwire.AppendAttr(b.buf, nftaChainUserdata, appendComment(nil, c.Comment)...)
	}
	b.done()
}

// nfAccept is NF_ACCEPT of include/uapi/linux/netfilter.h.
const nfAccept = 1

func (b *batch) addRule(table, chain string, r Rule) error {
	b.open(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, op{verb: "add rule", rule: &chainRule{chain, r}}, table, chain)
	buf, at := nlwire.OpenAttr(b.buf, nlwire.Nested|unix.NFTA_RULE_EXPRESSIONS)
	buf, err := appendRule(buf, r)
	if err != nil {
		return err
	}
	b.buf = nlwire.CloseAttr(buf, at)
	b.done()
	return nil
}

// addElements appends the elements, which have passed Change.Validate and must not be there
// yet, in as many messages as it takes: a list of elements is one attribute.
func (b *batch) addElements(t Table, es []Element) {
	b.elements(t, es, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add element", (*Set).appendElement)
}

// deleteElements appends the deletion of the elements, which have passed Change.Validate and
// must be there.
func (b *batch) deleteElements(t Table, es []Element) {
	b.elements(t, es, unix.NFT_MSG_DELSETELEM, 0, "delete element",
		func(c *Set, buf []byte, e *Element) []byte { return c.openElement(buf, &e.Key) })
}

// largestElement bounds the bytes of an element in a list: two keys of two IPv6
// addresses, a value, two time-outs, a comment, and their headers.
const largestElement = 512

// addFurther checks and appends elements that are made one by one.
func (b *batch) addFurther(t Table, es Elements) error {
	if es.All == nil {
		return nil
	}
	v := validator{table: t}
	w := elementWriter{
		batch: b, table: &t, count: es.Len, msg: unix.NFT_MSG_NEWSETELEM, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
		verb: "add element", appendOne: (*Set).appendElement,
	}
	var one Element // for all: each would be allocated
	for one = range es.All {
		if err := v.check(w.verb, &one, false); err != nil {
			return err
		}
		w.append(&one)
	}
	w.close()
	return nil
}

func (b *batch) elements(t Table, es []Element, msg, flags uint16, verb string,
	appendOne func(*Set, []byte, *Element) []byte,
) {
	w := elementWriter{batch: b, table: &t, count: len(es), msg: msg, flags: flags, verb: verb, appendOne: appendOne}
	for i := range es {
		w.append(&es[i])
	}
	w.close()
}

// elementWriter appends elements to a batch, in as many messages as it takes.
type elementWriter struct {
	batch      *batch
	table      *Table
	count      int // how many are to come, about
	msg, flags uint16
	verb       string
	appendOne  func(*Set, []byte, *Element) []byte
	set        *Set // of the last element; nil: there was none
	list       int  // where the open list begins; zero: none is open
}

func (w *elementWriter) append(e *Element) {
	b, first := w.batch, w.set == nil
	if w.list != 0 && (w.set.Name != e.Set || len(b.buf)-w.list > nlwire.MaxAttr-largestElement) {
		w.close()
	}
	if first || w.set.Name != e.Set {
		found, _ := w.table.Set(e.Set)
		w.set = &found
	}
	if w.list == 0 {
		b.open(w.msg, w.flags, op{verb: w.verb, object: w.set.Name, set: w.set}, w.table.Name, w.set.Name)
		b.buf, w.list = nlwire.OpenAttr(b.buf, nlwire.Nested|unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	}
	from := len(b.buf)
	b.buf = w.set.appendMember(b.buf, e, w.appendOne)
	if first && w.count > 1 {
		// Most others take as much, and a byte for their share of the headers of messages
		// and lists.
		b.buf = slices.Grow(b.buf, (w.count-1)*(len(b.buf)-from+1))
	}
}

// close ends the open list and its message, if there is one.
func (w *elementWriter) close() {
	if w.list == 0 {
		return
	}
	w.batch.buf = nlwire.CloseAttr(w.batch.buf, w.list)
	w.batch.done()
	w.list = 0
}

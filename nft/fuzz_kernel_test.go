// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// liar is a socket that answers every request with the datagrams it was given, one for
// each, under the sequence number that was asked with: as far as that goes it is heard.
type liar struct {
	answers [][]byte
	seq     uint32
	queue   []byte
}

// newLiar cuts what it is to say in datagrams: two bytes for the length, then as much.
func newLiar(script []byte) *liar {
	l := &liar{}
	for len(script) > 1 {
		n := min(int(binary.BigEndian.Uint16(script)), len(script)-2)
		l.answers = append(l.answers, script[2:2+n])
		script = script[2+n:]
	}
	return l
}

func (l *liar) Send(b []byte) error {
	l.seq = binary.NativeEndian.Uint32(b[8:])
	if len(l.answers) > 0 {
		l.queue, l.answers = l.answers[0], l.answers[1:]
	}
	return nil
}

func (l *liar) Receive(b []byte, _ bool) (int, error) {
	if len(l.queue) == 0 {
		return 0, unix.EAGAIN
	}
	n := copy(b, l.queue)
	l.queue = nil
	for m := b[:n]; len(m) >= unix.SizeofNlMsghdr; {
		binary.NativeEndian.PutUint32(m[8:], l.seq)
		next := padded(int(binary.NativeEndian.Uint32(m)))
		if next < unix.SizeofNlMsghdr || next > len(m) {
			break
		}
		m = m[next:]
	}
	return n, nil
}

func (l *liar) Close() error { return nil }

// datagrams is what newLiar cuts.
func datagrams(all ...[]byte) (script []byte) {
	for _, d := range all {
		script = binary.BigEndian.AppendUint16(script, uint16(len(d)))
		script = append(script, d...)
	}
	return script
}

// FuzzKernel reads a ruleset of a kernel that says anything: the table, generations,
// sets, chains, rules, elements, and what became of a transaction. Reading ends, and
// what it has found out can be shown.
func FuzzKernel(f *testing.F) {
	p := &peer{t: f, generation: 5, handle: 3, count: -1}
	known := sample()
	p.table, p.elements = &known, ports(3, "web")
	request := nlwire.Message{Type: nftType(unix.NFT_MSG_GETTABLE)}
	generation := p.one(request, unix.NFT_MSG_NEWGEN, nlwire.AppendBE32(nil, unix.NFTA_GEN_ID, 5))[0].data
	table := p.answer(request)[0].data
	sets, chains, rules := p.objects(request, unix.NFT_MSG_NEWSET)[0].data, p.objects(request, unix.NFT_MSG_NEWCHAIN)[0].data,
		p.objects(request, unix.NFT_MSG_NEWRULE)[0].data
	known.Chains = append(known.Chains, Chain{Name: "\x1b[2J\nall is well"})
	known.Sets = append(known.Sets, Set{Name: strings.Repeat("\xff\r", 127), Key: Type{InetService}})
	forged := datagrams(generation, table, p.objects(request, unix.NFT_MSG_NEWSET)[0].data,
		p.objects(request, unix.NFT_MSG_NEWCHAIN)[0].data, rules, generation)
	elements := append(p.part(request, named(known, "tcp4"), p.elements), done(request)...)
	count := p.one(request, unix.NFT_MSG_NEWSET, nlwire.AppendBE32(nil, nftaSetCount, 1<<32-1))[0].data
	f.Add(uint8(0), datagrams(table))
	f.Add(uint8(1), datagrams(generation))
	f.Add(uint8(2), datagrams(generation, table, sets, chains, rules, generation))
	f.Add(uint8(2), forged)
	f.Add(uint8(3), datagrams(generation, count, elements, generation))
	f.Add(uint8(4), datagrams(errorMessage(1, unix.EEXIST, explainedFlags, explanation("twice", 84)...), generation, elements))
	f.Add(uint8(5), datagrams(errorMessage(1, unix.ERESTART, unix.NLM_F_CAPPED), table, generation, table, sets, chains, rules))
	f.Add(uint8(6), datagrams(generation, table, sets, chains, table, errorMessage(1, unix.ERESTART, unix.NLM_F_CAPPED)))
	f.Fuzz(func(t *testing.T, what uint8, script []byte) {
		synctest.Test(t, func(t *testing.T) { // where pauses take no time
			askLiar(t, &Conn{socket: newLiar(script), buf: make([]byte, nlwire.LargestDatagram)}, what)
		})
	})
}

func askLiar(t *testing.T, c *Conn, what uint8) {
	t.Helper()
	table := sample()
	var err error
	switch what % 7 {
	case 0:
		_, err = c.Table(table.Name)
	case 1:
		_, err = c.Generation()
	case 2:
		var drift []Difference
		drift, err = c.Drift(table)
		for _, d := range drift {
			requireOneLine(t, d.String())
		}
	case 3:
		var es []Element
		es, _, err = c.Elements(table, "tcp4", "networks4", "inside6", "links")
		for _, e := range es {
			requireOneLine(t, e.String())
		}
	case 4:
		err = c.Update(table, Change{Add: ports(2, "web"), Generation: 5})
	case 5:
		err = c.Replace(table, ports(2, "web"), 0)
	case 6:
		err = c.Repair(table, Change{Add: ports(2, "web")}, 3)
	}
	if err != nil {
		requireOneLine(t, strings.ReplaceAll(err.Error(), "\n", "; ")) // of errors.Join
	}
}

// requireOneLine: what others wrote into a table or said is shown as text.
func requireOneLine(t *testing.T, s string) {
	t.Helper()
	require.Equal(t, -1, strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }), "%q", s)
}

// FuzzNotifications hears any bytes as word of what others have changed. What cannot be
// read is taken for a change, and one that was heard of is not passed over for what
// comes before or behind it.
func FuzzNotifications(f *testing.F) {
	p := &peer{t: f, generation: 7, handle: 3}
	known := sample()
	p.table = &known
	request := nlwire.Message{Type: nftType(unix.NFT_MSG_GETTABLE)}
	about := p.answer(request)[0].data
	end := p.one(request, unix.NFT_MSG_NEWGEN, nlwire.AppendBE32(nil, unix.NFTA_GEN_ID, 7))[0].data
	f.Add(about)
	f.Add(append(slices.Clip(about), end...))
	f.Add(end)
	f.Add(p.objects(request, unix.NFT_MSG_NEWRULE)[0].data)
	f.Fuzz(func(t *testing.T, b []byte) {
		is, generation := concerns(b, "nftnat")
		again, same := concerns(b, "nftnat")
		require.Equal(t, is, again)
		require.Equal(t, generation, same)
		found, _ := concerns(append(slices.Clip(about), b...), "nftnat")
		require.True(t, found)
		whole := nlwire.Messages{Data: b}
		for whole.Next() {
		}
		if whole.Err == nil && len(b)%4 == 0 {
			found, _ = concerns(append(slices.Clip(b), about...), "nftnat")
			require.True(t, found)
		}
	})
}

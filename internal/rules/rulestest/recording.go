// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rulestest

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/rules"
)

//go:embed testdata/*.gz
var files embed.FS

const suffix = ".gz"

// Names returns the names of the rulesets, sorted.
func Names(tb testing.TB) (names []string) {
	tb.Helper()
	list, err := files.ReadDir("testdata")
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range list {
		names = append(names, strings.TrimSuffix(f.Name(), suffix))
	}
	return names
}

// Open returns a reader of the ruleset of that name, and what it has listed.
func Open(tb testing.TB, name string) (*rules.Reader, *rules.Ruleset) {
	tb.Helper()
	b, err := files.ReadFile("testdata/" + name + suffix)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := Load(b)
	if err != nil {
		tb.Fatalf("load ruleset %s: %v", name, err)
	}
	reader := rules.NewReader(r)
	rs, err := reader.Read(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return reader, rs
}

// Recording is a source of rules that has what the kernel has listed.
type Recording struct{ answers []answer }

// answer is one answer to a request: the message that was asked for, the family of the answer, and its
// attributes.
type answer struct {
	message uint16
	family  uint8
	attrs   []byte
}

// Record asks a source for everything.
func Record(ctx context.Context, s rules.Source) (*Recording, error) {
	r := &Recording{}
	ask := func(req rules.Request) error {
		return s.Ask(ctx, req, func(family uint8, attrs []byte) error {
			r.answers = append(r.answers, answer{req.Message, family, bytes.Clone(attrs)})
			return nil
		})
	}
	if err := ask(rules.Request{Message: unix.NFT_MSG_GETGEN}); err != nil {
		return nil, err
	}
	for _, message := range []uint16{
		unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETSET, unix.NFT_MSG_GETFLOWTABLE, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETOBJ,
	} {
		if err := ask(rules.Request{Message: message, Dump: true}); err != nil {
			return nil, err
		}
	}
	for _, a := range slices.Clone(r.answers) {
		if a.message != unix.NFT_MSG_GETSET {
			continue
		}
		b := nlwire.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, nlwire.FindString(a.attrs, unix.NFTA_SET_TABLE))
		b = nlwire.AppendString(b, unix.NFTA_SET_ELEM_LIST_SET, nlwire.FindString(a.attrs, unix.NFTA_SET_NAME))
		if err := ask(rules.Request{Message: unix.NFT_MSG_GETSETELEM, Dump: true, Family: a.family, Attrs: b}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Load reads what Save has written.
func Load(b []byte) (*Recording, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if b, err = io.ReadAll(z); err != nil {
		return nil, err
	}
	r := &Recording{}
	const head = 7
	for len(b) >= head {
		n := int(binary.BigEndian.Uint32(b[3:]))
		if head+n > len(b) {
			break
		}
		r.answers = append(r.answers, answer{binary.BigEndian.Uint16(b), b[2], b[head : head+n]})
		b = b[head+n:]
	}
	if len(b) != 0 {
		return nil, nlwire.ErrMalformed
	}
	return r, nil
}

// Save writes the recording, for Load.
func (r *Recording) Save() ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	for _, a := range r.answers {
		b := binary.BigEndian.AppendUint16(nil, a.message)
		b = binary.BigEndian.AppendUint32(append(b, a.family), uint32(len(a.attrs)))
		if _, err := z.Write(append(b, a.attrs...)); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Close does nothing.
func (r *Recording) Close() error { return nil }

// Ask answers as the kernel did, and looks keys up as it does.
func (r *Recording) Ask(ctx context.Context, req rules.Request, each func(family uint8, attrs []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if req.Message == unix.NFT_MSG_GETSETELEM && !req.Dump {
		return r.get(req, each)
	}
	filters := map[uint16][]uint16{
		unix.NFT_MSG_GETRULE:    {unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN},
		unix.NFT_MSG_GETSETELEM: {unix.NFTA_SET_ELEM_LIST_TABLE, unix.NFTA_SET_ELEM_LIST_SET},
		unix.NFT_MSG_GETOBJ:     {unix.NFTA_OBJ_TABLE, unix.NFTA_OBJ_NAME, unix.NFTA_OBJ_TYPE},
	}[req.Message]
	found := false
	for _, a := range r.answers {
		if a.message != req.Message || req.Family != 0 && a.family != req.Family || !sameAttrs(a.attrs, req.Attrs, filters) {
			continue
		}
		found = true
		if err := each(a.family, a.attrs); err != nil || !req.Dump {
			return err
		}
	}
	if !found && !req.Dump {
		return unix.ENOENT
	}
	return nil
}

// sameAttrs reports whether attributes of these types are equal, where they are asked for.
func sameAttrs(a, asked []byte, types []uint16) bool {
	for _, typ := range types {
		if want := nlwire.Find(asked, typ); want != nil && !bytes.Equal(want, nlwire.Find(a, typ)) {
			return false
		}
	}
	return true
}

// What x/sys/unix does not name.
const (
	keyEnd      = 10 // NFTA_SET_ELEM_KEY_END
	catchAll    = 2  // NFT_SET_ELEM_CATCHALL
	descConcat  = 2  // NFTA_SET_DESC_CONCAT
	fieldLength = 1  // NFTA_SET_FIELD_LEN
)

// get looks one key up.
func (r *Recording) get(req rules.Request, each func(family uint8, attrs []byte) error) error {
	names := []uint16{unix.NFTA_SET_ELEM_LIST_TABLE, unix.NFTA_SET_ELEM_LIST_SET}
	var set []byte
	for _, a := range r.answers {
		if a.message == unix.NFT_MSG_GETSET && a.family == req.Family && sameAttrs(a.attrs, req.Attrs, names) { // which have the same numbers
			set = a.attrs
		}
	}
	asked := nlwire.Attrs{Data: nlwire.Find(req.Attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}
	if set == nil || !asked.Next() {
		return unix.ENOENT
	}
	want := element{asked.Payload}
	var best element
	for _, a := range r.answers {
		if a.message != unix.NFT_MSG_GETSETELEM || a.family != req.Family || !sameAttrs(a.attrs, req.Attrs, names) {
			continue
		}
		for list := (nlwire.Attrs{Data: nlwire.Find(a.attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)}); list.Next(); {
			if e := (element{list.Payload}); e.has(set, want) && (best.attrs == nil || bytes.Compare(best.key(), e.key()) < 0) {
				best = e
			}
		}
	}
	if best.attrs == nil || best.flags()&unix.NFT_SET_ELEM_INTERVAL_END != 0 {
		return unix.ENOENT
	}
	b, list := nlwire.OpenAttr(nil, unix.NFTA_SET_ELEM_LIST_ELEMENTS|nlwire.Nested)
	b = nlwire.CloseAttr(nlwire.AppendAttr(b, unix.NFTA_LIST_ELEM|nlwire.Nested, best.attrs...), list)
	return each(req.Family, b)
}

// element is the attributes of one.
type element struct{ attrs []byte }

func (e element) flags() uint32 {
	flags, _ := nlwire.FindBE32(e.attrs, unix.NFTA_SET_ELEM_FLAGS)
	return flags
}

func (e element) value(typ uint16) []byte {
	return nlwire.Find(nlwire.Find(e.attrs, typ), unix.NFTA_DATA_VALUE)
}

func (e element) key() []byte { return e.value(unix.NFTA_SET_ELEM_KEY) }

// has reports whether a key may be in an element: of a set of intervals, that the element does
// not begin behind it.
func (e element) has(set []byte, want element) bool {
	if e.flags()&catchAll != 0 || want.flags()&catchAll != 0 {
		return e.flags()&want.flags()&catchAll != 0
	}
	flags, _ := nlwire.FindBE32(set, unix.NFTA_SET_FLAGS)
	key, low, high := want.key(), e.key(), e.value(keyEnd)
	switch {
	case flags&unix.NFT_SET_INTERVAL == 0:
		return bytes.Equal(key, low)
	case high == nil:
		return bytes.Compare(low, key) <= 0
	}
	fields := nlwire.Attrs{Data: nlwire.Find(nlwire.Find(set, unix.NFTA_SET_DESC), descConcat)}
	for at := 0; fields.Next(); {
		n, _ := nlwire.FindBE32(fields.Payload, fieldLength)
		end := at + int(n)
		if end > len(key) || end > len(low) || end > len(high) || bytes.Compare(key[at:end], low[at:end]) < 0 || bytes.Compare(key[at:end], high[at:end]) > 0 {
			return false
		}
		at = nlwire.Align(end)
	}
	return true
}

// String says how many answers there are.
func (r *Recording) String() string { return fmt.Sprintf("%d answers", len(r.answers)) }

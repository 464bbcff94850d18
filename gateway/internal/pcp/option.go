// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"encoding/binary"
	"net/netip"
	"unicode/utf8"
)

// Options (RFC 6887 section 13, RFC 7220 section 2). Those below 128 have to be processed.
const (
	optThirdParty    = 1
	optPreferFailure = 2
	optFilter        = 3
	optional         = 128 // the first of those that may be ignored
	optDescription   = 128

	optionHeaderLen = 4
	thirdPartyLen   = 16
	filterLen       = 20
	maxDescription  = 1016 // bytes, RFC 7220 section 2
	mappedBits      = 96   // of an IPv4-mapped address before the IPv4 one
)

// option is an option in a message.
type option struct {
	code byte
	data []byte
}

// cutOption splits the first option off. It is false if that is longer than b.
func cutOption(b []byte) (o option, rest []byte, ok bool) {
	if len(b) < optionHeaderLen {
		return option{}, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	end := optionHeaderLen + (n+3)&^3
	if end > len(b) {
		return option{}, nil, false
	}
	return option{code: b[0], data: b[optionHeaderLen : optionHeaderLen+n]}, b[end:], true
}

// wellFormed is whether b is whole options.
func wellFormed(b []byte) bool {
	ok := true
	for ok && len(b) > 0 {
		_, b, ok = cutOption(b)
	}
	return ok
}

// appendOption appends an option with its padding.
func appendOption(b []byte, o option) []byte {
	b = append(b, o.code, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(o.data)))
	b = append(b, o.data...)
	for i := len(o.data); i%4 != 0; i++ {
		b = append(b, 0)
	}
	return b
}

// options are those of a MAP request, processed.
type options struct {
	preferFailure  bool
	removeFilters  bool // those that the mapping has, before filters are added
	filters        []netip.Prefix
	described      bool
	valid          bool // of the description
	description    string
	processed      []byte // what an answer of success has of them, but for the description
	tooManyFilters bool   // one of them cannot be made
}

// read processes the options of a request in their order, and says what is wrong with the first
// that is. An error that is in the contents of a later one goes before that of filters which cannot
// be made.
func (o *options) read(b []byte, m *mapRequest) result {
	if !wellFormed(b) {
		return malformedOption
	}
	for len(b) > 0 {
		var one option
		one, b, _ = cutOption(b)
		if r := o.add(one, m); r != success {
			return r
		}
	}
	if o.tooManyFilters {
		return excessiveRemotePeers
	}
	return success
}

// add processes an option.
func (o *options) add(one option, m *mapRequest) result {
	switch one.code {
	case optThirdParty:
		return thirdParty(one.data, m.client)
	case optPreferFailure:
		// Section 13.2; with a lifetime of zero it makes no sense, section 11.3.
		if o.preferFailure || len(one.data) != 0 || m.external == 0 || m.lifetime == 0 {
			return malformedOption
		}
		o.preferFailure = true
	case optFilter:
		if len(one.data) != filterLen || m.lifetime == 0 {
			return malformedOption
		}
		if r := o.addFilter(one.data); r != success {
			return r
		}
	case optDescription:
		return o.describe(one.data)
	default:
		if one.code < optional {
			return unsuppOption
		}
		return success // ignored
	}
	o.processed = appendOption(o.processed, one)
	return success
}

// thirdParty refuses mappings for others. An address that is the client's own has an error of its
// own (section 13.1).
func thirdParty(data []byte, client netip.Addr) result {
	switch {
	case len(data) != thirdPartyLen:
		return malformedOption
	case address(data) == client:
		return malformedRequest
	default:
		return unsuppOption
	}
}

// addFilter adds what may connect (section 13.3). A source port and an IPv6 address cannot be
// filtered by, as the mapping is of IPv4 and the rules look at addresses alone: that is an error,
// because without the filter more would be let through than the client wants.
func (o *options) addFilter(data []byte) result {
	bits, port, peer := int(data[1]), binary.BigEndian.Uint16(data[2:]), address(data[4:])
	switch {
	case bits == 0:
		o.removeFilters, o.filters, o.tooManyFilters = true, nil, false
	case bits > 128, peer.Is4() && bits < mappedBits:
		return malformedOption
	case !peer.Is4() || port != 0:
		o.tooManyFilters = true
	default:
		o.filters = append(o.filters, netip.PrefixFrom(peer, bits-mappedBits).Masked())
	}
	return success
}

// describe takes a description. One that is not valid is ignored (RFC 7220 section 3), one that
// comes twice is not (RFC 6887 section 7.3).
func (o *options) describe(data []byte) result {
	if o.described {
		return malformedOption
	}
	o.described = true
	if len(data) <= maxDescription && utf8.Valid(data) {
		o.valid, o.description = true, string(data)
	}
	return success
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"errors"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// maxLease2 is the longest lease of version 2, and what zero means there
// (WANIPConnection:2, PortMappingLeaseDuration).
const maxLease2 = 604800 * time.Second

// maxListed is how many mappings a list has at most. For more, a client asks again from the next port on.
const maxListed = 1000

func addMapping(c *call) *fault {
	r, f := c.request()
	if f != nil {
		return f
	}
	if r.External == 0 {
		return wildcardExternal()
	}
	r.Exact = true
	if _, err := c.server.leases.Grant(c.ctx, r); err != nil {
		return c.refused(err)
	}
	return nil
}

func addAnyMapping(c *call) *fault {
	r, f := c.request()
	if f != nil {
		return f
	}
	l, err := c.server.leases.Grant(c.ctx, r)
	if err != nil {
		return c.refused(err)
	}
	c.out = []string{port(l.External)}
	return nil
}

// request reads the arguments of a new mapping.
func (c *call) request() (r lease.Request, f *fault) {
	r = lease.Request{Kind: lease.IGD, Key: c.in["NewPortMappingDescription"], Client: c.client}
	if r.From, f = c.remoteHost(); f != nil {
		return r, f
	}
	if r.External, f = c.port("NewExternalPort"); f != nil {
		return r, f
	}
	if r.Proto, f = c.proto(); f != nil {
		return r, f
	}
	if r.Internal, f = c.port("NewInternalPort"); f != nil {
		return r, f
	}
	if r.Internal == 0 {
		if c.version == 1 {
			return r, outOfRange()
		}
		return r, wildcardInternal()
	}
	if f = c.internalClient(); f != nil {
		return r, f
	}
	enabled, f := c.boolean("NewEnabled")
	if f != nil {
		return r, f
	}
	if !enabled { // a mapping that is there and leads nowhere would be nobody's gain
		return r, outOfRange()
	}
	r.Lifetime, f = c.lifetime()
	return r, f
}

// internalClient checks that the client asks for itself, by its address. There are programs that
// leave that to the gateway.
func (c *call) internalClient() *fault {
	text := strings.Trim(c.in["NewInternalClient"], xmlSpace)
	if text == "" && c.client.Is4() {
		return nil
	}
	if a, err := netip.ParseAddr(text); err != nil || a != c.client || !c.client.Is4() {
		return notAuthorized()
	}
	return nil
}

func (c *call) lifetime() (time.Duration, *fault) {
	seconds, f := c.number("NewLeaseDuration", math.MaxUint32)
	d := time.Duration(seconds) * time.Second
	switch {
	case f != nil:
		return 0, f
	case c.version == 1:
		return d, nil
	case d == 0:
		return maxLease2, nil
	case d > maxLease2:
		return 0, outOfRange()
	default:
		return d, nil
	}
}

// remoteHost reads who may connect; nil: anyone.
func (c *call) remoteHost() ([]netip.Prefix, *fault) {
	text := strings.Trim(c.in["NewRemoteHost"], xmlSpace)
	if text == "" || text == "*" { // which is not in the documents
		return nil, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
		return nil, outOfRange()
	}
	return []netip.Prefix{netip.PrefixFrom(a, 32)}, nil
}

func (c *call) proto() (nat.Proto, *fault) {
	switch strings.Trim(c.in["NewProtocol"], xmlSpace) {
	case "TCP":
		return nat.TCP, nil
	case "UDP":
		return nat.UDP, nil
	default:
		return 0, outOfRange()
	}
}

// refused is the fault for an error of a lease.
func (c *call) refused(err error) *fault {
	c.recorded = true
	var taken *lease.TakenError
	switch {
	case errors.As(err, &taken) && taken.Other && c.version > 1:
		return otherMechanisms()
	case errors.Is(err, lease.ErrTaken):
		return conflict()
	case errors.Is(err, lease.ErrDenied), errors.Is(err, lease.ErrOther):
		return notAuthorized()
	case errors.Is(err, lease.ErrQuota), errors.Is(err, lease.ErrFull):
		return noMapsAvailable()
	case errors.Is(err, lease.ErrNone):
		return noSuchEntry()
	case errors.Is(err, lease.ErrInvalid):
		return outOfRange()
	default: // no address, no daemon
		return actionFailed()
	}
}

// entry finds the mapping that the arguments identify.
func (c *call) entry() (l lease.Lease, f *fault) {
	from, f := c.remoteHost()
	if f != nil {
		return l, f
	}
	external, f := c.port("NewExternalPort")
	if f != nil {
		return l, f
	}
	proto, f := c.proto()
	if f != nil {
		return l, f
	}
	l, ok := c.server.leases.External(proto, external)
	if !ok || remote(&l) != remote(&lease.Lease{From: from}) {
		return l, noSuchEntry()
	}
	return l, nil
}

func deleteMapping(c *call) *fault {
	l, f := c.entry()
	if f != nil {
		return f
	}
	if err := c.server.leases.ReleaseExternal(c.ctx, c.client, l.Proto, l.External); err != nil {
		return c.refused(err)
	}
	return nil
}

func specificEntry(c *call) *fault {
	l, f := c.entry()
	if f != nil {
		return f
	}
	c.out = values(&l, c.server.now())[3:]
	return nil
}

func genericEntry(c *call) *fault {
	i, f := c.number("NewPortMappingIndex", math.MaxInt32)
	if f != nil {
		return f
	}
	l, ok := c.server.leases.At(int(i))
	if !ok {
		return indexInvalid()
	}
	c.out = values(&l, c.server.now())
	return nil
}

// values are those of the arguments NewRemoteHost to NewLeaseDuration.
func values(l *lease.Lease, now time.Time) []string {
	return []string{
		remote(l), port(l.External), strings.ToUpper(l.Proto.String()),
		port(l.Internal), l.Client.String(), "1", describeLease(l), duration(l, now),
	}
}

// remote is NewRemoteHost. A lease that PCP limits to several is shown as one that anyone may use.
func remote(l *lease.Lease) string {
	if len(l.From) != 1 || !l.From[0].IsSingleIP() {
		return ""
	}
	return l.From[0].Addr().String()
}

func describeLease(l *lease.Lease) string {
	switch l.Kind {
	case lease.PMP:
		return "NAT-PMP"
	case lease.PCP:
		return "PCP"
	case lease.IGD:
	}
	return l.Key
}

// duration is NewLeaseDuration, in which zero would mean for ever.
func duration(l *lease.Lease, now time.Time) string {
	if l.Expires.IsZero() {
		return "0"
	}
	return strconv.FormatInt(max(1, int64((l.Remaining(now)+time.Second-1)/time.Second)), 10)
}

func port(n uint16) string { return strconv.Itoa(int(n)) }

// span reads the arguments of the actions about several mappings, and returns those mappings, of
// all clients.
func (c *call) span() (found []lease.Lease, manage bool, f *fault) {
	first, f := c.port("NewStartPort")
	if f != nil {
		return nil, false, f
	}
	last, f := c.port("NewEndPort")
	if f != nil {
		return nil, false, f
	}
	proto, f := c.proto()
	if f != nil {
		return nil, false, f
	}
	if manage, f = c.boolean("NewManage"); f != nil {
		return nil, false, f
	}
	if first > last {
		return nil, false, inconsistent()
	}
	for _, l := range c.server.leases.All() {
		if l.Proto == proto && l.External >= first && l.External <= last {
			found = append(found, l)
		}
	}
	return found, manage, nil
}

// deleteRange removes the client's mappings. Those of others would need a client that may manage
// them, and there is none.
func deleteRange(c *call) *fault {
	found, manage, f := c.span()
	if f != nil {
		return f
	}
	deleted := false
	for _, l := range found {
		if l.Client != c.client {
			if manage {
				return notAuthorized()
			}
			continue
		}
		deleted = deleted || l.Kind == lease.IGD
	}
	if !deleted {
		return mappingNotFound()
	}
	for _, l := range found {
		if l.Client != c.client || l.Kind != lease.IGD {
			continue
		}
		if err := c.server.leases.ReleaseExternal(c.ctx, c.client, l.Proto, l.External); err != nil && !errors.Is(err, lease.ErrNone) {
			return c.refused(err)
		}
	}
	return nil
}

// listMappings lists the client's mappings, or with NewManage those of all: they are no secret,
// for GetGenericPortMappingEntry gives them to all.
func listMappings(c *call) *fault {
	found, manage, f := c.span()
	if f != nil {
		return f
	}
	limit, f := c.number("NewNumberOfPorts", math.MaxUint16)
	if f != nil {
		return f
	}
	if limit == 0 || limit > maxListed {
		limit = maxListed
	}
	doc := newDocument()
	doc.write(`<p:PortMappingList xmlns:p="urn:schemas-upnp-org:gw:WANIPConnection" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"` +
		` xsi:schemaLocation="urn:schemas-upnp-org:gw:WANIPConnection http://www.upnp.org/schemas/gw/WANIPConnection-v2.xsd">`)
	listed := uint64(0)
	now := c.server.now()
	for _, l := range found {
		if !manage && l.Client != c.client {
			continue
		}
		if listed++; listed > limit {
			break
		}
		doc.open("p:PortMappingEntry")
		for i, v := range values(&l, now) {
			doc.text("p:"+listNames[i], v)
		}
		doc.close("p:PortMappingEntry")
	}
	doc.close("p:PortMappingList")
	if listed == 0 {
		return mappingNotFound()
	}
	c.out = []string{doc.String()}
	return nil
}

// listNames are those of [values] in a list (WANIPConnection:2, A_ARG_TYPE_PortListing).
var listNames = [...]string{
	"NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort", "NewInternalClient",
	"NewEnabled", "NewDescription", "NewLeaseTime",
}

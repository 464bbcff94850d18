// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// manyAddrs is from how many addresses on the routes are looked up by regions: to read the
// destinations costs as much as some hundred look-ups.
const manyAddrs = 512

// regions are the first addresses of regions, in order. A region is what the same routes and
// rules match, by their destinations, and so the kernel finds one route to all of it.
type regions []netip.Addr

// of returns the region of an address.
func (rs regions) of(a netip.Addr) int {
	i, first := slices.BinarySearchFunc(rs, a, netip.Addr.Compare)
	if !first {
		i--
	}
	return i
}

// near is of, which is quick if the address is in the region that one before it was in.
func (rs regions) near(before int, a netip.Addr) int {
	if rs[before].Compare(a) <= 0 && (before+1 == len(rs) || a.Less(rs[before+1])) {
		return before
	}
	return rs.of(a)
}

// wholes are all addresses of a family, and those that the kernel judges before it looks at
// the routes (ip_route_output_key_hash_rcu, ip6_route_output_flags, ipv6_addr_type).
var wholes = map[bool][]netip.Prefix{
	true: {
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/32"),
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
		netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	},
	false: {
		netip.MustParsePrefix("::/0"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::/128"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("ff00::/8"),
	},
}

// regions returns those of the families that addresses are of. Nil: they could not be read,
// or there are more routes than addresses.
func (r *Routes) regions(addrs []netip.Addr) (rs regions) {
	families := map[bool]bool{}
	for _, a := range addrs {
		families[a.Is4()] = true
	}
	for is4 := range families {
		firsts, err := r.firsts(is4, len(addrs))
		if err != nil {
			// The rest of a list that is too long is not read. On such a host it would be so
			// again.
			_ = r.lists.Close() // nothing is written
			r.lists = nil
			return nil
		}
		rs = append(rs, firsts...)
	}
	slices.SortFunc(rs, netip.Addr.Compare)
	return slices.Compact(rs)
}

var errTooMany = errors.New("there are too many routes")

// firsts returns the first address of each destination of a family's routes and rules, and the
// first after each.
func (r *Routes) firsts(is4 bool, limit int) (firsts []netip.Addr, err error) {
	interrupted := true
	for attempt := 0; interrupted && attempt < dumpAttempts && err == nil; attempt++ {
		firsts, interrupted = firsts[:0], false
		add := func(p netip.Prefix) error {
			if len(firsts) > 2*limit {
				return errTooMany
			}
			firsts = append(firsts, p.Masked().Addr())
			if after := lastOf(p).Next(); after.IsValid() {
				firsts = append(firsts, after)
			}
			return nil
		}
		for _, p := range wholes[is4] {
			err = errors.Join(err, add(p))
		}
		for _, kind := range []uint16{unix.RTM_GETROUTE, unix.RTM_GETRULE} {
			var changed bool
			if err == nil {
				changed, err = r.destinations(kind, is4, add)
			}
			interrupted = interrupted || changed
		}
	}
	return firsts, err
}

// destinations calls add with the destination of each route, or rule, of a family.
func (r *Routes) destinations(kind uint16, is4 bool, add func(netip.Prefix) error) (interrupted bool, err error) {
	size, family := unix.SizeofRtMsg, byte(unix.AF_INET6)
	if is4 {
		family = unix.AF_INET
	}
	if kind == unix.RTM_GETRULE {
		size = sizeofRuleMsg
	}
	r.seq++
	b, at := nlwire.OpenMessage(nil, kind, unix.NLM_F_DUMP, r.seq)
	b = append(b, append([]byte{family}, make([]byte, size-1)...)...)
	err = r.exchangeOn(r.lists, nlwire.CloseMessage(b, at), 1, func(m nlwire.Message) (done bool, err error) {
		if m.Seq != r.seq {
			return false, nil
		}
		interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		if m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE {
			a, err := m.Answer()
			return true, errors.Join(err, a.Err())
		}
		if len(m.Payload) < size {
			return false, nlwire.ErrMalformed
		}
		for a := m.Attrs(size); a.Next(); {
			// RTA_DST and FRA_DST; without one it is for all.
			if dst, ok := netip.AddrFromSlice(a.Payload); ok && a.Type == unix.RTA_DST && dst.Is4() == is4 {
				return false, add(netip.PrefixFrom(dst, int(m.Payload[1])))
			}
		}
		return false, nil
	})
	return interrupted, err
}

// sizeofRuleMsg is that of struct fib_rule_hdr (include/uapi/linux/fib_rules.h), whose second
// byte is the length of the destination, as that of struct rtmsg is.
const sizeofRuleMsg = 12

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

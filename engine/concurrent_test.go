// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/nat"
)

// owners checks that what is granted excludes nothing that is granted already.
type owners struct {
	mu     sync.Mutex
	grants map[uint32][]netip.Addr // by protocol and port
	wrong  []string
}

func key(m nat.Mapping) uint32 { return uint32(m.Proto)<<16 | uint32(m.Frontend.Port()) }

func (o *owners) add(m nat.Mapping) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.grants[key(m)] {
		if exclude(a, m.Frontend.Addr()) {
			o.wrong = append(o.wrong, fmt.Sprintf("%s was granted while %s was", m, a))
		}
	}
	o.grants[key(m)] = append(o.grants[key(m)], m.Frontend.Addr())
}

func (o *owners) giveBack(m nat.Mapping) {
	o.mu.Lock()
	defer o.mu.Unlock()
	as := o.grants[key(m)]
	o.grants[key(m)] = slices.DeleteFunc(as, func(a netip.Addr) bool { return a == m.Frontend.Addr() })
}

// No two callers ever hold the same protocol, address and port, wildcards included.
func TestOneOwnerOfAPort(t *testing.T) {
	const callers, rounds, first, last = 64, 40, 20000, 20499
	b := newTestbed()
	e := b.openWith(t, Options{NoSysctl: true, FirstPort: first, LastPort: last})
	o := &owners{grants: map[uint32][]netip.Addr{}}
	errs := make(chan error, callers)
	for caller := range callers {
		go func() {
			errs <- contend(e, o, fmt.Sprint(caller), rand.New(rand.NewPCG(1, uint64(caller))), rounds, first, last)
		}()
	}
	for range callers {
		require.NoError(t, <-errs)
	}
	require.Empty(t, o.wrong)
	require.Empty(t, publishedBy(e))
	require.Empty(t, elementsIn(b.kernel.Dump()))
	requireConsistent(t, b, e)
}

// contend publishes and unpublishes in a name of its own, by chance some of the time what
// others have.
func contend(e *Engine, o *owners, name string, r *rand.Rand, rounds, first, last int) error {
	hosts := []netip.Addr{{}, {}, any4(), any6(), netip.MustParseAddr(local4), netip.MustParseAddr(local6)}
	var mine []nat.Mapping
	for range rounds {
		host := hosts[r.IntN(len(hosts))]
		m := nat.Mapping{
			Name: name, Proto: []nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)], Frontend: netip.AddrPortFrom(host, uint16(first+r.IntN(last-first+1))),
			Backend: netip.MustParseAddrPort("172.30.0.2:80"),
		}
		if host.Is6() {
			m.Backend = netip.MustParseAddrPort("[fd00:30::2]:80")
		}
		if r.IntN(3) == 0 {
			m.Frontend = netip.AddrPortFrom(host, 0)
			m.More = uint16(r.IntN(3))
		}
		done, err := e.Publish(context.Background(), nat.PublishOptions{}, m)
		switch {
		case err == nil && slices.Contains(mine, slices.Collect(nat.Expand(done[0]))[0]): // its own again
		case err == nil:
			for one := range nat.Expand(done[0]) {
				o.add(one)
				mine = append(mine, one)
			}
		case !errors.Is(err, nat.ErrConflict) && !errors.Is(err, alloc.ErrExhausted):
			return err
		}
		if r.IntN(10) == 0 {
			for range must(e.Mappings(context.Background())) { // while others change them
				break
			}
		}
		for len(mine) > 0 && r.IntN(3) == 0 {
			if err := giveBack(e, o, &mine); err != nil {
				return err
			}
		}
	}
	for len(mine) > 0 {
		if err := giveBack(e, o, &mine); err != nil {
			return err
		}
	}
	return nil
}

func giveBack(e *Engine, o *owners, mine *[]nat.Mapping) error {
	last := len(*mine) - 1
	m := (*mine)[last]
	*mine = (*mine)[:last]
	o.giveBack(m)
	_, err := e.Remove(context.Background(), nat.Removal{Mappings: []nat.Mapping{m}})
	return err
}

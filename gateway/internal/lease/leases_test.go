// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func pmp(client netip.Addr, internal, external uint16) Request {
	return Request{Kind: PMP, Client: client, Proto: nat.UDP, Internal: internal, External: external, Lifetime: time.Hour}
}

func pcp(client netip.Addr, internal, external uint16) Request {
	r := pmp(client, internal, external)
	r.Kind, r.Key = PCP, nonce
	return r
}

func igd(client netip.Addr, internal, external uint16) Request {
	r := pmp(client, internal, external)
	r.Kind, r.Key, r.Exact, r.Proto = IGD, "Xbox", true, nat.TCP
	return r
}

func (b *testbed) granted(t *testing.T, r Request) Lease {
	t.Helper()
	l, err := b.Grant(t.Context(), r)
	require.NoError(t, err)
	return l
}

func TestGrant(t *testing.T) {
	b := newTestbed(t, Options{})
	l := b.granted(t, pmp(addr(7), 5000, 6000))
	require.Equal(t, Lease{Kind: PMP, Client: addr(7), Proto: nat.UDP, Internal: 5000, External: 6000, Expires: b.clock.now().Add(time.Hour)}, l)
	m := b.fake.mappings[slot{nat.UDP, 6000}]
	require.Equal(t, "pmp:", m.Name)
	require.Equal(t, "6000->192.168.0.7:5000/udp", nat.Mapping{Proto: m.Proto, Frontend: netip.AddrPortFrom(netip.Addr{}, 6000), Backend: m.Backend}.String())
	require.Equal(t, netip.IPv4Unspecified(), m.Frontend.Addr())

	// It is renewed, whatever port is asked for, and no other port is given.
	b.clock.add(time.Minute)
	l = b.granted(t, pmp(addr(7), 5000, 7000))
	require.EqualValues(t, 6000, l.External)
	require.Equal(t, b.clock.now().Add(time.Hour), b.fake.mappings[slot{nat.UDP, 6000}].Expires)
	require.Equal(t, []Lease{l}, b.All())
	found, ok := b.Find(addr(7), nat.UDP, 5000)
	require.True(t, ok)
	require.Equal(t, l, found)

	// The number belongs to the client, over TCP too.
	other := pmp(addr(8), 5000, 6000)
	other.Proto = nat.TCP
	require.EqualValues(t, 5000, b.granted(t, other).External)
	same := pmp(addr(7), 5000, 0)
	same.Proto = nat.TCP
	require.EqualValues(t, 6000, b.granted(t, same).External, "as over UDP")

	// Another client's port is not given, but another one.
	require.NotEqualValues(t, 6000, b.granted(t, pmp(addr(8), 6001, 6000)).External)
	exact := pcp(addr(8), 6002, 6000)
	exact.Exact = true
	_, err := b.Grant(t.Context(), exact)
	var taken *TakenError
	require.ErrorAs(t, err, &taken)
	require.Equal(t, TakenError{Proto: nat.UDP, Port: 6000, Holder: "client 192.168.0.7"}, *taken)

	require.NoError(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000))
	require.NoError(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000), "again")
	_, ok = b.External(nat.UDP, 6000)
	require.False(t, ok)
	require.NotContains(t, b.fake.mappings, slot{nat.UDP, 6000})
}

func TestInvalidRequests(t *testing.T) {
	b := newTestbed(t, Options{})
	for name, change := range map[string]func(*Request){
		"kind":     func(r *Request) { r.Kind = 0 },
		"protocol": func(r *Request) { r.Proto = 132 },
		"client":   func(r *Request) { r.Client = netip.MustParseAddr("fd00::1") },
		"internal": func(r *Request) { r.Internal = 0 },
		"exact":    func(r *Request) { r.Exact, r.External = true, 0 },
		"nonce":    func(r *Request) { r.Key = "0" },
		"from":     func(r *Request) { r.From = []netip.Prefix{netip.MustParsePrefix("fd00::/8")} },
	} {
		r := pcp(addr(7), 5000, 6000)
		change(&r)
		_, err := b.Grant(t.Context(), r)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	require.Empty(t, b.fake.mappings)
}

// Nobody but who has the nonce changes a lease of PCP.
func TestNonce(t *testing.T) {
	b := newTestbed(t, Options{})
	r := pcp(addr(7), 5000, 6000)
	r.Text, r.SetText = "game", true
	b.granted(t, r)
	require.Equal(t, "pcp:"+nonce+" game", b.fake.mappings[slot{nat.UDP, 6000}].Name)
	other := r
	other.Key = "ffffffffffffffffffffffff"
	_, err := b.Grant(t.Context(), other)
	require.ErrorIs(t, err, ErrKey)
	require.ErrorIs(t, b.Release(t.Context(), PCP, other.Key, addr(7), nat.UDP, 5000), ErrKey)
	require.ErrorIs(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000), ErrKey)
	before := b.fake.mappings[slot{nat.UDP, 6000}]
	b.clock.add(time.Minute)
	require.Equal(t, PCP, b.granted(t, pmp(addr(7), 5000, 6000)).Kind, "as it is")
	require.Equal(t, before, b.fake.mappings[slot{nat.UDP, 6000}])

	r.SetText = false
	require.Equal(t, "game", b.granted(t, r).Text)
	moved := r
	moved.Exact, moved.External = true, 6001
	_, err = b.Grant(t.Context(), moved)
	require.ErrorIs(t, err, ErrTaken)
	require.NoError(t, b.Release(t.Context(), PCP, nonce, addr(7), nat.UDP, 5000))

	// PCP takes a lease of NAT-PMP over.
	b.granted(t, pmp(addr(7), 5000, 6000))
	require.Equal(t, nonce, b.granted(t, pcp(addr(7), 5000, 6000)).Key)
	require.ErrorIs(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000), ErrKey)
}

func TestSources(t *testing.T) {
	b := newTestbed(t, Options{})
	from := func(texts ...string) (ps []netip.Prefix) {
		for _, s := range texts {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	r := pcp(addr(7), 5000, 6000)
	r.AddFrom, r.From = true, from("203.0.113.0/24")
	require.Equal(t, r.From, b.granted(t, r).From)
	r.From = from("192.0.2.1/32")
	require.Equal(t, from("192.0.2.1/32", "203.0.113.0/24"), b.granted(t, r).From)
	r.From = nil
	require.Len(t, b.granted(t, r).From, 2)
	require.Equal(t, "192.0.2.1/32,203.0.113.0/24", b.fake.mappings[slot{nat.UDP, 6000}].From.String())
	for i := range nat.MaxSources + 1 {
		r.From = append(r.From, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), 32))
	}
	_, err := b.Grant(t.Context(), r)
	require.ErrorIs(t, err, ErrSources)
	r.AddFrom, r.From = false, nil
	require.Empty(t, b.granted(t, r).From)
}

func TestUPnP(t *testing.T) {
	b := newTestbed(t, Options{})
	b.granted(t, igd(addr(7), 3074, 3074))
	require.Equal(t, "igd:Xbox", b.fake.mappings[slot{nat.TCP, 3074}].Name)

	// Its own client may change it, another one may not.
	r := igd(addr(7), 3075, 3074)
	r.Key, r.Lifetime = "other", 0
	l := b.granted(t, r)
	require.Zero(t, l.Expires)
	require.Equal(t, "192.168.0.7:3075", b.fake.mappings[slot{nat.TCP, 3074}].Backend.String())
	require.Equal(t, 1, b.Len())
	_, err := b.Grant(t.Context(), igd(addr(8), 3074, 3074))
	require.ErrorIs(t, err, ErrTaken)
	udp := igd(addr(8), 3074, 3074)
	udp.Proto = nat.UDP
	_, err = b.Grant(t.Context(), udp)
	require.ErrorIs(t, err, ErrTaken, "the number is of one client")
	b.granted(t, igd(addr(7), 3075, 3076))
	require.Equal(t, 2, b.Len())
	first, _ := b.At(0)
	second, _ := b.At(1)
	require.Equal(t, []uint16{3074, 3076}, []uint16{first.External, second.External})
	_, ok := b.At(2)
	require.False(t, ok)

	// What is without an end gets one.
	revision := b.Revision()
	b.granted(t, igd(addr(7), 3075, 3074))
	require.NotZero(t, b.fake.mappings[slot{nat.TCP, 3074}].Expires)
	require.NotEqual(t, revision, b.Revision())
	revision = b.Revision()
	b.clock.add(time.Second)
	b.granted(t, igd(addr(7), 3075, 3074))
	require.Equal(t, revision, b.Revision(), "renewed")

	require.ErrorIs(t, b.ReleaseExternal(t.Context(), addr(8), nat.TCP, 3074), ErrOther)
	require.ErrorIs(t, b.ReleaseExternal(t.Context(), addr(7), nat.TCP, 9999), ErrNone)
	require.NoError(t, b.ReleaseExternal(t.Context(), addr(7), nat.TCP, 3074))
	require.ErrorIs(t, b.ReleaseExternal(t.Context(), addr(7), nat.TCP, 3074), ErrNone)
	require.Equal(t, 1, b.Len())
	b.granted(t, pmp(addr(7), 5000, 6000))
	require.ErrorIs(t, b.ReleaseExternal(t.Context(), addr(7), nat.UDP, 6000), ErrOther)
	_, err = b.Grant(t.Context(), igd(addr(7), 5000, 80))
	require.ErrorIs(t, err, ErrDenied)
}

// A client that asks for any port again, as it has not heard which it has got, gets the same.
func TestAnyAgain(t *testing.T) {
	b := newTestbed(t, Options{})
	b.granted(t, igd(addr(8), 3000, 8080))
	asked := igd(addr(7), 3074, 8080)
	asked.Exact = false
	first := b.granted(t, asked)
	require.NotEqual(t, uint16(8080), first.External)
	require.Equal(t, first.External, b.granted(t, asked).External)
	zero := asked
	zero.External = 0
	require.Equal(t, first.External, b.granted(t, zero).External)
	require.Equal(t, 2, b.Len())

	// Another request is another lease, and so is one for a port that is free.
	other := asked
	other.Key = "other"
	require.NotEqual(t, first.External, b.granted(t, other).External)
	from := asked
	from.From = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}
	require.NotEqual(t, first.External, b.granted(t, from).External)
	free := asked
	free.External = 8081
	require.EqualValues(t, 8081, b.granted(t, free).External)
	require.Equal(t, 5, b.Len())
}

// A client whose port an operator has taken just now, of which the event has yet to come, gets another one.
func TestTakenJustNow(t *testing.T) {
	b := newTestbed(t, Options{})
	for _, r := range []Request{pmp(addr(7), 5000, 6000), pcp(addr(7), 5001, 6001)} {
		require.Equal(t, r.External, b.granted(t, r).External)
		web := operators(fmt.Sprintf("0.0.0.0:%d->10.0.0.1:80", r.External), "web")
		web.Proto = r.Proto
		at := slot{r.Proto, r.External}
		b.fake.change(func() { b.fake.mappings[at] = web })
		r.Lifetime *= 2
		l := b.granted(t, r)
		require.NotEqual(t, r.External, l.External)
		require.Equal(t, l.External, b.granted(t, r).External)
		b.fake.change(func() { b.fake.send(api.EventPublished, web) })
		soon(t, func() bool { _, ok := b.External(at.proto, at.port); return !ok })
		b.fake.change(func() { require.Equal(t, web, b.fake.mappings[at], "the operator's stays") })
	}
	require.Equal(t, 2, b.Len())

	// Who is refused by UPnP is not told by PCP that it has the port.
	r := igd(addr(7), 5002, 6002)
	b.granted(t, r)
	web := operators("0.0.0.0:6002->10.0.0.1:80", "web")
	b.fake.change(func() { b.fake.mappings[slot{nat.TCP, 6002}] = web })
	r.Key = "other"
	_, err := b.Grant(t.Context(), r)
	require.ErrorIs(t, err, ErrTaken)
	r = pcp(addr(7), 5002, 6002)
	r.Proto = nat.TCP
	require.NotEqual(t, uint16(6002), b.granted(t, r).External)
}

// Operators' mappings and ports of programs are taken; a client whose port has a mapping is told so.
func TestTaken(t *testing.T) {
	b := newTestbed(t, Options{})
	b.fake.publish(t, operators("8080->10.0.0.1:80", "web"))
	b.fake.publish(t, operators("192.0.2.1:8081->10.0.0.1:80", ""))
	b.fake.publish(t, operators("9000->192.168.0.7:9001", "own"))
	b.fake.publish(t, operators("[2001:db8::1]:8082->[fd00::1]:80", ""))
	b.fake.change(func() { b.fake.held[slot{nat.TCP, 8083}] = true })
	soon(t, func() bool { _, ok := b.Find(addr(7), nat.TCP, 9001); return ok })
	holder := func(port uint16) string {
		_, err := b.Grant(t.Context(), igd(addr(7), 5000, port))
		var taken *TakenError
		require.ErrorAs(t, err, &taken, "%v", err)
		require.True(t, taken.Other)
		return taken.Holder
	}
	require.Equal(t, `the mapping "web"`, holder(8080))
	require.Equal(t, "a mapping of tcp 192.0.2.1:8081", holder(8081))
	require.Equal(t, "tcp 0.0.0.0:8083 is held by sshd (pid 7)", holder(8083))
	calls := b.fake.calls
	require.Equal(t, "tcp 0.0.0.0:8083 is held by sshd (pid 7)", holder(8083))
	require.Equal(t, calls, b.fake.calls, "refused without the daemon")
	b.granted(t, igd(addr(7), 5000, 8082))
	for _, port := range []uint16{1900, 5350, 5351} {
		r := pmp(addr(8), port, port)
		require.NotEqual(t, port, b.granted(t, r).External)
	}
	// The next one is given instead of one that is held.
	r := pmp(addr(9), 8083, 8083)
	r.Proto = nat.TCP
	b.clock.add(time.Minute)
	l := b.granted(t, r)
	require.EqualValues(t, firstDynamic, l.External-l.External%firstDynamic)

	static := pcp(addr(7), 9001, 0)
	static.Proto = nat.TCP
	l = b.granted(t, static)
	require.Equal(t, Lease{Key: "own", Client: addr(7), Proto: nat.TCP, Internal: 9001, External: 9000}, l)
	static.Exact, static.External = true, 9001
	_, err := b.Grant(t.Context(), static)
	require.ErrorIs(t, err, ErrTaken)
	require.ErrorIs(t, b.Release(t.Context(), PCP, nonce, addr(7), nat.TCP, 9001), ErrOther)

	// What an operator removes is free.
	_, err = b.fake.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{operators("8080->10.0.0.1:80", "web")}, Name: "web"})
	require.NoError(t, err)
	soon(t, func() bool { _, err := b.Grant(t.Context(), igd(addr(7), 5000, 8080)); return err == nil })
}

func TestQuota(t *testing.T) {
	b := newTestbed(t, Options{Limits: Limits{Quota: 3}})
	for i := range uint16(3) {
		b.granted(t, pmp(addr(7), 5000+i, 0))
	}
	_, err := b.Grant(t.Context(), pmp(addr(7), 6000, 0))
	require.ErrorIs(t, err, ErrQuota)
	b.granted(t, pmp(addr(7), 5001, 0))
	b.granted(t, pmp(addr(8), 5001, 0))
	require.NoError(t, b.ReleaseAll(t.Context(), PMP, addr(7), nat.UDP))
	require.Equal(t, 1, b.Len())

	// At the same time as well.
	var asking sync.WaitGroup
	var mu sync.Mutex
	refused := 0
	for i := range uint16(20) {
		asking.Go(func() {
			_, err := b.Grant(t.Context(), pmp(addr(7), 7000+i, 0))
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, ErrQuota) {
				refused++
			}
		})
	}
	asking.Wait()
	require.Equal(t, 17, refused)
	require.Equal(t, 4, b.Len())
}

func TestRuleRefusals(t *testing.T) {
	rule, err := ParseRule("allow 6000-6001 192.168.0.7 5000-5999")
	require.NoError(t, err)
	b := newTestbed(t, Options{Rules: Rules{rule}})
	_, err = b.Grant(t.Context(), pmp(addr(8), 5000, 6000))
	require.ErrorIs(t, err, ErrDenied)
	_, err = b.Grant(t.Context(), pmp(addr(7), 6000, 6000))
	require.ErrorIs(t, err, ErrDenied)
	exact := pcp(addr(7), 5000, 7000)
	exact.Exact = true
	_, err = b.Grant(t.Context(), exact)
	require.ErrorIs(t, err, ErrTaken)
	require.EqualValues(t, 6000, b.granted(t, pmp(addr(7), 5000, 7000)).External)
	require.EqualValues(t, 6001, b.granted(t, pmp(addr(7), 5001, 6000)).External)
	_, err = b.Grant(t.Context(), pmp(addr(7), 5002, 6000))
	require.ErrorIs(t, err, ErrFull)

	rs := b.Refusals()
	require.Len(t, rs, 4)
	require.Equal(t, "udp 6000 to port 5002", rs[0].Request)
	require.Equal(t, ErrFull.Error(), rs[0].Reason)
	require.Equal(t, "denied by the rules", rs[3].Reason)
	for range 500 {
		_, _ = b.Grant(t.Context(), pmp(addr(8), 5000, 6000))
	}
	rs = b.Refusals()
	require.Len(t, rs, 4)
	require.Equal(t, 501, rs[0].Count)
	for i := range uint16(300) {
		_, _ = b.Grant(t.Context(), pmp(addr(8), 5000+i, 6000))
	}
	require.Len(t, b.Refusals(), maxRefusals)
}

func TestLifetimes(t *testing.T) {
	b := newTestbed(t, Options{Limits: Limits{Min: time.Minute, Max: time.Hour}})
	lifetime := func(r Request, d time.Duration) time.Duration {
		r.Lifetime = d
		l := b.granted(t, r)
		return l.Remaining(b.clock.now())
	}
	require.Equal(t, time.Hour, lifetime(pmp(addr(7), 1111, 0), 24*time.Hour))
	require.Equal(t, time.Second, lifetime(pmp(addr(7), 1111, 0), time.Second))
	require.Equal(t, time.Minute, lifetime(pcp(addr(7), 1112, 0), time.Second))
	require.Equal(t, time.Hour, lifetime(pcp(addr(7), 1112, 0), 1<<32*time.Second))
	require.Equal(t, time.Minute, lifetime(igd(addr(7), 1113, 1113), time.Second))
	require.Equal(t, 604800*time.Second, lifetime(igd(addr(7), 1113, 1113), 604800*time.Second))
}

// The ports that clients gave back rest, but for these clients and for who asks for just that port.
func TestRest(t *testing.T) {
	b := newTestbed(t, Options{})
	b.granted(t, pmp(addr(7), 5000, 6000))
	require.NoError(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000))
	require.EqualValues(t, 5000, b.granted(t, pmp(addr(8), 5000, 6000)).External)
	require.EqualValues(t, 6000, b.granted(t, pmp(addr(7), 5000, 6000)).External)
	require.NoError(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000))
	r := igd(addr(9), 5000, 6000)
	r.Proto = nat.UDP
	b.granted(t, r)
	require.NoError(t, b.ReleaseExternal(t.Context(), addr(9), nat.UDP, 6000))
	b.clock.add(restTime)
	require.EqualValues(t, 6000, b.granted(t, pmp(addr(8), 5001, 6000)).External)
}

// A restart of the gateway or of the daemon makes no client start over; lost leases do.
func TestEpoch(t *testing.T) {
	b := newTestbed(t, Options{})
	require.Zero(t, b.Epoch(), "there is no table")
	b.clock.add(time.Minute)
	b.granted(t, pmp(addr(7), 5000, 6000))
	soon(t, func() bool { return b.Epoch() == 3660-1000 })
	b.clock.add(time.Minute)
	require.EqualValues(t, 3720-1000, b.Epoch())

	b.restart(t, Options{})
	require.EqualValues(t, 3720-1000, b.Epoch())
	require.Equal(t, 1, b.Len())
	changed := b.Changed()
	b.fake.stop()
	soon(t, func() bool { since, _ := b.Down(); return !since.IsZero() })
	require.EqualValues(t, 3720-1000, b.Epoch())
	require.Equal(t, 1, b.Len())
	b.fake.start()
	soon(t, func() bool { since, _ := b.Down(); return since.IsZero() })
	require.EqualValues(t, 3720-1000, b.Epoch())
	require.Equal(t, 1, b.Len())
	select {
	case <-changed:
		t.Fatal("nothing was lost")
	default:
	}

	b.fake.stop()
	b.fake.change(func() {
		clear(b.fake.mappings)
		b.fake.created = 3700
	})
	b.fake.start()
	<-changed
	require.EqualValues(t, 20, b.Epoch())
	require.Zero(t, b.Len())

	// Another address of the WAN is as good as a loss.
	changed = b.Changed()
	b.SetAddress(netip.MustParseAddr("198.51.100.2"), 3710)
	<-changed
	require.EqualValues(t, 10, b.Epoch())
	b.SetAddress(netip.Addr{}, 0)
	require.EqualValues(t, 10, b.Epoch())
	_, err := b.Grant(t.Context(), pmp(addr(7), 5000, 6000))
	require.ErrorIs(t, err, ErrNoAddress)
}

// While the daemon is started again, requests wait; if it stays away, they fail soon.
func TestDaemonAway(t *testing.T) {
	b := newTestbed(t, Options{})
	b.granted(t, pmp(addr(7), 5000, 6000))
	b.fake.stop()
	granted := make(chan error, 1)
	go func() {
		_, err := b.Grant(context.Background(), pmp(addr(7), 5001, 6001))
		granted <- err
	}()
	time.Sleep(50 * time.Millisecond)
	b.fake.start()
	require.NoError(t, <-granted)

	b.fake.stop()
	soon(t, func() bool { since, _ := b.Down(); return !since.IsZero() })
	b.clock.add(time.Hour)
	began := time.Now()
	_, err := b.Grant(t.Context(), pmp(addr(7), 5002, 6002))
	require.ErrorIs(t, err, ErrDaemon)
	require.Less(t, time.Since(began), time.Second)
	require.ErrorIs(t, b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000), ErrDaemon)
}

// Events that do not come do not stop anything, and what was missed is read again.
func TestLostEvents(t *testing.T) {
	b := newTestbed(t, Options{})
	b.fake.change(func() { b.fake.silent = true })
	b.granted(t, pmp(addr(7), 5000, 6000))
	require.Equal(t, 1, b.Len())
	b.fake.publish(t, operators("8080->10.0.0.1:80", "web"))
	b.fake.change(func() {
		b.fake.silent = false
		for c := range b.fake.streams {
			c <- lostEvent()
		}
	})
	soon(t, func() bool {
		_, err := b.Grant(t.Context(), igd(addr(7), 5000, 8080))
		return errors.Is(err, ErrTaken)
	})
	require.Equal(t, 1, b.Len())
}

// Ten thousand leases are renewed at once, in few transactions, and none is lost.
func TestBurst(t *testing.T) {
	const clients, each = 400, 25
	b := newTestbed(t, Options{})
	b.fake.delay = time.Millisecond
	all := func() {
		var asking sync.WaitGroup
		slots := make(chan struct{}, 256)
		for c := range clients {
			for i := range uint16(each) {
				slots <- struct{}{}
				asking.Go(func() {
					defer func() { <-slots }()
					_, err := b.Grant(t.Context(), pmp(addr(c), 5000+i, 0))
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		asking.Wait()
	}
	all()
	require.Equal(t, clients*each, b.Len())
	before := b.All()
	b.clock.add(time.Minute)
	calls := b.fake.calls
	all()
	after := b.All()
	t.Logf("%d transactions", b.fake.calls-calls)
	require.Less(t, b.fake.calls-calls, clients*each/4)
	for i := range before {
		before[i].Expires = before[i].Expires.Add(time.Minute)
	}
	require.Equal(t, before, after)
}

// Of several ports in one transaction, one that cannot be had does not keep the others from being given.
func TestMixedBatch(t *testing.T) {
	b := newTestbed(t, Options{})
	b.fake.change(func() {
		for port := range uint16(50) {
			b.fake.held[slot{nat.UDP, 6000 + 2*port}] = true
		}
	})
	var asking sync.WaitGroup
	var mu sync.Mutex
	given := map[uint16]bool{}
	for i := range uint16(100) {
		asking.Go(func() {
			l, err := b.Grant(t.Context(), pmp(addr(int(i)), 5000, 6000+i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || given[l.External] || (i%2 == 1) != (l.External == 6000+i) {
				t.Errorf("client %d: port %d: %v", i, l.External, err)
			}
			given[l.External] = true
		})
	}
	asking.Wait()
	require.Equal(t, 100, b.Len())
}

// A client that asks again before it was answered gets one lease.
func TestRepeated(t *testing.T) {
	b := newTestbed(t, Options{})
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() { _, _ = b.Grant(t.Context(), pmp(addr(7), 5000, 6000)) })
		asking.Go(func() { _, _ = b.Grant(t.Context(), igd(addr(7), 5000, 6000)) })
		asking.Go(func() { _ = b.Release(t.Context(), PMP, "", addr(7), nat.UDP, 5000) })
	}
	asking.Wait()
	b.granted(t, pmp(addr(7), 5000, 6000))
	require.Len(t, b.fake.mappings, b.Len())
	require.LessOrEqual(t, b.Len(), 2)
}

// A refusal costs the same whatever is published.
func BenchmarkRefusal(b *testing.B) {
	for _, leases := range []int{0, 10000, 60000} {
		b.Run(fmt.Sprint(leases), func(b *testing.B) {
			l := New(Options{Limits: Limits{Quota: 10}})
			close(l.ready)
			l.SetAddress(wanAddress, 0)
			for i := range leases {
				e := Lease{Kind: PMP, Client: addr(i / 10), Proto: nat.UDP, Internal: uint16(5000 + i%10), External: uint16(1024 + i)}
				m, err := e.mapping()
				if err != nil {
					b.Fatal(err)
				}
				l.index.put(&m)
			}
			m := operators("1000->10.0.0.1:80", "web")
			l.index.put(&m)
			r := igd(netip.MustParseAddr("10.0.0.9"), 5000, 1000)
			l.rules = Rules{{Allow: true, External: Ports{1, 65535}, Clients: netip.MustParsePrefix("0.0.0.0/0"), Internal: Ports{1, 65535}}}
			for b.Loop() {
				if _, err := l.Grant(context.Background(), r); !errors.Is(err, ErrTaken) {
					b.Fatal(err)
				}
			}
		})
	}
}

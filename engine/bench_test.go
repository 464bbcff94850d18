// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

const crowd = 60000

// manyMappings are n mappings for any address, from port 1 on, to backends on one
// segment.
func manyMappings(n int) []nat.Mapping {
	ms := make([]nat.Mapping, n)
	for i := range ms {
		ms[i] = nat.Mapping{
			Proto:    nat.TCP,
			Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(1+i)),
			Backend:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, 0, byte(2 + i%200)}), 80),
		}
	}
	return ms
}

// BenchmarkPublish publishes one mapping and takes it back, beside as many others as
// the name says: plain ones, such as end by themselves, or such as have a segment
// each, a case whose cost grows with them. The cost of the fake kernel is in it.
func BenchmarkPublish(b *testing.B) {
	for _, beside := range []int{0, 1000, crowd} {
		for _, kind := range []string{"plain", "leases", "segments"} {
			if beside == 0 && kind != "plain" || beside == crowd && kind == "segments" {
				continue
			}
			b.Run(fmt.Sprintf("%d-%s", beside, kind), func(b *testing.B) {
				e, bed := openFake(b)
				ms := manyMappings(beside)
				for i := range ms {
					switch kind {
					case "leases":
						ms[i].Expires = bed.clock.Now().Add(time.Hour + time.Duration(i)*time.Millisecond)
					case "segments": // a route to each machine
						a := netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
						ms[i].Backend = netip.AddrPortFrom(a, 80)
						bed.host.onLink("tap", netip.PrefixFrom(a, 32).String())
					}
				}
				_, err := e.Apply(b.Context(), ms...)
				require.NoError(b, err)
				publishOver(b, e)
			})
		}
	}
}

// publishOver publishes one mapping and takes it back, over and over.
func publishOver(b *testing.B, e *Engine) {
	b.Helper()
	m := nattest.Mapping(b, "65000->172.30.0.2:80")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Publish(b.Context(), nat.PublishOptions{}, m); err != nil {
			b.Fatal(err)
		}
		if _, err := e.Remove(b.Context(), nat.Removal{Mappings: []nat.Mapping{m}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExpire has one of many leases end each time, without a kernel.
func BenchmarkExpire(b *testing.B) {
	e, bed := openFake(b)
	ms := manyMappings(crowd)
	for i := range ms {
		ms[i].Expires = bed.clock.Now().Add(time.Hour)
	}
	_, err := e.Apply(b.Context(), ms...)
	require.NoError(b, err)
	m := nattest.Mapping(b, "65000->172.30.0.2:80")
	now := bed.clock.Now()
	b.ReportAllocs()
	for b.Loop() {
		m.Expires = now
		p := portset.Of(m)
		e.core.mappings.Put(p)
		e.core.expect(p)
		e.core.countPort(p, 1)
		e.core.forget(now)
	}
}

func BenchmarkApply60000(b *testing.B) {
	ms := manyMappings(crowd)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		e, _ := openFake(b)
		b.StartTimer()
		if _, err := e.Apply(b.Context(), ms...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApplyAgain60000 applies what is applied already.
func BenchmarkApplyAgain60000(b *testing.B) {
	ms := manyMappings(crowd)
	e, _ := openFake(b)
	_, err := e.Apply(b.Context(), ms...)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Apply(b.Context(), ms...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAdopt60000 opens an engine on a table of that many mappings, and reports
// what each keeps on the heap.
func BenchmarkAdopt60000(b *testing.B) {
	e, bed := openFake(b)
	_, err := e.Apply(b.Context(), manyMappings(crowd)...)
	require.NoError(b, err)
	e = nil
	before := heapInUse()
	b.ReportAllocs()
	for b.Loop() {
		e, err = bed.tryOpen(Options{NoSysctl: true})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heapInUse()-before)/crowd, "retained-B/mapping")
	runtime.KeepAlive(e)
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// One endpoint comes and goes beside others: the cost must not grow with their number.
func BenchmarkAttach(b *testing.B) {
	for _, others := range []int{0, 1000, 10000} {
		b.Run(strconv.Itoa(others), func(b *testing.B) {
			e, _ := openFake(b)
			_, err := e.CreateNetwork(b.Context(), nat.Network{Name: "wide", Prefix: netip.MustParsePrefix("10.128.0.0/16")})
			require.NoError(b, err)
			for i := range others {
				_, err := e.Attach(b.Context(), nat.EndpointSpec{Name: "other" + strconv.Itoa(i), Network: "wide"})
				require.NoError(b, err)
			}
			for b.Loop() {
				ep, err := e.Attach(b.Context(), nat.EndpointSpec{Name: "one", Network: "wide"})
				if err != nil {
					b.Fatal(err)
				}
				if err := ep.Release(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

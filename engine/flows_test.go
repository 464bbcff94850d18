// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// flow is one of a client elsewhere: it sent to dst, and from is who answers.
func flow(proto nat.Proto, dst, from string) conntrack.Flow {
	return conntrack.Flow{
		Proto: uint8(proto), Status: conntrack.StatusSeenReply,
		Dst: netip.MustParseAddrPort(dst), ReplySrc: netip.MustParseAddrPort(from),
	}
}

func TestFlowsFollowTheMapping(t *testing.T) {
	const (
		web, other   = "172.30.0.2:80", "172.30.0.3:80"
		web6, other6 = "[fd00:30::2]:80", "[fd00:30::3]:80"
	)
	here4, here6, second4 := local4+":8080", "["+local6+"]:8080", otherLocal4+":8080"
	const elsewhere, elsewhere6 = "198.51.100.7:8080", "[2001:db8:9::7]:8080"
	tests := map[string]struct {
		published []string // before
		call      func(*Engine) error
		dst, from string // of a flow over UDP
		deleted   bool
	}{
		// A publish ends the flows to the host itself and to an earlier backend.
		"publish, to the host itself":        {nil, publishes("8080->" + web + "/udp"), here4, here4, true},
		"publish, to its second address":     {nil, publishes("8080->" + web + "/udp"), second4, second4, true},
		"publish, to an earlier backend":     {nil, publishes("8080->" + web + "/udp"), here4, other, true},
		"publish, there already":             {nil, publishes("8080->" + web + "/udp"), here4, web, false},
		"publish, in transit":                {nil, publishes("8080->" + web + "/udp"), elsewhere, elsewhere, false},
		"publish, in transit, DNATed":        {nil, publishes("8080->" + web + "/udp"), elsewhere, other, false},
		"publish, over loopback":             {nil, publishes("8080->" + web + "/udp"), "127.0.0.1:8080", "127.0.0.1:8080", false},
		"publish, over ::1":                  {nil, publishes("8080->" + web6 + "/udp"), "[::1]:8080", "[::1]:8080", false},
		"publish, another port":              {nil, publishes("8080->" + web + "/udp"), local4 + ":8081", local4 + ":8081", false},
		"publish, the backend's port number": {nil, publishes("8080->" + web + "/udp"), local4 + ":80", local4 + ":80", false},
		"publish, straight to the backend":   {nil, publishes("80->" + web + "/udp"), web, web, false},
		"publish tcp":                        {nil, publishes("8080->" + web), here4, here4, false},
		"publish one, to it":                 {nil, publishes(here4 + "->" + web + "/udp"), here4, here4, true},
		"publish one, to another":            {nil, publishes(here4 + "->" + web + "/udp"), second4, second4, false},
		"publish one of loopback":            {nil, publishes("127.0.0.1:8080->" + web + "/udp"), "127.0.0.1:8080", "127.0.0.1:8080", false},
		"publish IPv4, to IPv4":              {nil, publishes("0.0.0.0:8080->" + web + "/udp"), here4, here4, true},
		"publish IPv4, to IPv6":              {nil, publishes("0.0.0.0:8080->" + web + "/udp"), here6, here6, false},
		"publish IPv6, to IPv4":              {nil, publishes("[::]:8080->" + web6 + "/udp"), here4, here4, false},
		"publish IPv6, to IPv6":              {nil, publishes("[::]:8080->" + web6 + "/udp"), here6, here6, true},
		"publish to IPv6, to IPv6":           {nil, publishes("8080->" + web6 + "/udp"), here6, here6, true},
		"publish to IPv6, in transit":        {nil, publishes("8080->" + web6 + "/udp"), elsewhere6, elsewhere6, false},
		"publish a range, to its last":       {nil, publishes("8070-8080->172.30.0.2:70-80/udp"), here4, here4, true},
		"publish two ends, between":          {nil, publishes("8070->"+web+"/udp", "8090->"+web+"/udp"), here4, here4, false},
		"publish both families, to IPv4":     {nil, publishes("0.0.0.0:8080->"+web+"/udp", "[::]:8080->"+web6+"/udp"), here4, here4, true},
		"publish both families, to IPv6":     {nil, publishes("0.0.0.0:8080->"+web+"/udp", "[::]:8080->"+web6+"/udp"), here6, here6, true},
		"publish many, to one":               {nil, publishes(here4+"->"+web+"/udp", second4+"->"+web+"/udp"), second4, second4, true},

		// An unpublish ends its own flows, and no others.
		"unpublish, its own":            {[]string{"8080->" + web + "/udp"}, unpublishes("8080->" + web + "/udp"), here4, web, true},
		"unpublish, the host's":         {[]string{"8080->" + web + "/udp"}, unpublishes("8080->" + web + "/udp"), here4, here4, false},
		"unpublish, of another backend": {[]string{"8080->" + web + "/udp"}, unpublishes("8080->" + web + "/udp"), here4, other, false},
		"unpublish, in transit":         {[]string{"8080->" + web + "/udp"}, unpublishes("8080->" + web + "/udp"), elsewhere, web, false},
		"unpublish, its own, IPv6":      {[]string{"8080->" + web6 + "/udp"}, unpublishes("8080->" + web6 + "/udp"), here6, web6, true},
		"unpublish one, its own":        {[]string{here4 + "->" + web + "/udp"}, unpublishes(here4 + "->" + web + "/udp"), here4, web, true},
		"unpublish one, beside another": {
			[]string{here4 + "->" + web + "/udp", second4 + "->" + web + "/udp"}, unpublishes(here4 + "->" + web + "/udp"), second4, web, false,
		},
		"unpublish one of loopback": {
			[]string{"127.0.0.1:8080->" + web + "/udp"}, unpublishes("127.0.0.1:8080->" + web + "/udp"), "127.0.0.1:8080", web, false,
		},
		"publish to the other family":   {nil, publishes(here4 + "->" + web6 + "/udp"), here4, here4, false},
		"unpublish of the other family": {[]string{here4 + "->" + web6 + "/udp"}, unpublishes(here4 + "->" + web6 + "/udp"), here4, here4, false},
		"unpublish tcp":                 {[]string{"8080->" + web}, unpublishes("8080->" + web), here4, web, false},

		// A replacement ends those to the old backend.
		"replace, to the old":             {[]string{"8080->" + web + "/udp"}, replaces("8080->" + other + "/udp"), here4, web, true},
		"replace, to the new":             {[]string{"8080->" + web + "/udp"}, replaces("8080->" + other + "/udp"), here4, other, false},
		"replace, in transit":             {[]string{"8080->" + web + "/udp"}, replaces("8080->" + other + "/udp"), elsewhere, web, false},
		"replace, same backend":           {[]string{"8080->" + web + "/udp"}, replaces("8080->" + web + "/udp"), here4, web, false},
		"replace to IPv6, to the old":     {[]string{"8080->" + web + "/udp"}, replaces("8080->" + web6 + "/udp"), here4, web, true},
		"replace to IPv6, to the host":    {[]string{"8080->" + web + "/udp"}, replaces("8080->" + web6 + "/udp"), here6, here6, true},
		"replace to IPv6, to another":     {[]string{"8080->" + web + "/udp"}, replaces("8080->" + web6 + "/udp"), here6, other6, true},
		"replace to IPv4, to the old":     {[]string{"8080->" + web6 + "/udp"}, replaces("8080->" + web + "/udp"), here6, web6, true},
		"replace to IPv4, to the host":    {[]string{"8080->" + web6 + "/udp"}, replaces("8080->" + web + "/udp"), here4, here4, true},
		"replace one to IPv6, to the old": {[]string{here4 + "->" + web + "/udp"}, replaces(here4 + "->" + web6 + "/udp"), here4, web, true},
		"replace one to IPv6, to a proxy": {[]string{here4 + "->" + web + "/udp"}, replaces(here4 + "->" + web6 + "/udp"), here4, here4, false},
		"replace one back, to a proxy":    {[]string{here4 + "->" + web6 + "/udp"}, replaces(here4 + "->" + web + "/udp"), here4, here4, true},
		"replace all back, to a proxy":    {[]string{"0.0.0.0:8080->" + web6 + "/udp"}, replaces("0.0.0.0:8080->" + web + "/udp"), second4, second4, true},
		"apply, what goes":                {[]string{"8080->" + web + "/udp"}, applies("8081->" + web + "/udp"), here4, web, true},
		"apply, what comes":               {[]string{"8081->" + web + "/udp"}, applies("8080->" + web + "/udp"), here4, here4, true},
		"apply, what stays":               {[]string{"8080->" + web + "/udp"}, applies("8080->"+web+"/udp", "8081->"+web+"/udp"), here4, other, false},
		"apply, narrower, to the host":    {[]string{"8080->" + web + "/udp"}, applies(here4 + "->" + other + "/udp"), second4, second4, false},
		"apply, narrower, what lost it":   {[]string{"8080->" + web + "/udp"}, applies(here4 + "->" + other + "/udp"), second4, web, true},
		"apply, narrower, what has moved": {[]string{"8080->" + web + "/udp"}, applies(here4 + "->" + other + "/udp"), here4, web, true},
		"purge":                           {[]string{"8080->" + web + "/udp"}, func(e *Engine) error { return e.Purge(t.Context()) }, here4, web, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e, b := openFake(t)
			publish(t, e, test.published...)
			f := flow(nat.UDP, test.dst, test.from)
			tcp := f
			tcp.Proto = uint8(nat.TCP)
			b.flows.flows, b.flows.passes = []conntrack.Flow{f, tcp}, nil
			require.NoError(t, test.call(e))
			want := []conntrack.Flow{tcp} // established connections stay
			if !test.deleted {
				want = []conntrack.Flow{f, tcp}
			}
			require.Equal(t, want, b.flows.flows)
			require.LessOrEqual(t, len(b.flows.passes), 1, "one pass over the table")
		})
	}
}

// Connections that nobody has answered end with what leads them to a backend.
func TestOpeningFlows(t *testing.T) {
	const web, other, web6 = "172.30.0.2:80", "172.30.0.3:80", "[fd00:30::2]:80"
	here4, here6 := local4+":8080", "["+local6+"]:8080"
	for name, test := range map[string]struct {
		published []string // before
		call      func(*Engine) error
		dst, from string
		deleted   bool
	}{
		"publish":                     {nil, publishes("8080->" + web), here4, other, false},
		"unpublish":                   {[]string{"8080->" + web}, unpublishes("8080->" + web), here4, web, true},
		"unpublish, IPv6":             {[]string{"[::]:8080->" + web6}, unpublishes("[::]:8080->" + web6), here6, web6, true},
		"unpublish, another backend":  {[]string{"8080->" + web}, unpublishes("8080->" + web), here4, other, false},
		"unpublish, to the host":      {[]string{"8080->" + web}, unpublishes("8080->" + web), here4, here4, false},
		"unpublish, in transit":       {[]string{"8080->" + web}, unpublishes("8080->" + web), "198.51.100.7:8080", web, false},
		"replace":                     {[]string{"8080->" + web}, replaces("8080->" + other), here4, web, true},
		"replace, to the new":         {[]string{"8080->" + web}, replaces("8080->" + other), here4, other, false},
		"replace, to the host":        {[]string{"8080->" + web}, replaces("8080->" + other), here4, here4, true},
		"replace, the same":           {[]string{"8080->" + web}, replaces("8080->" + web), here4, other, false},
		"apply, what goes":            {[]string{"8080->" + web}, applies("8081->" + web), here4, web, true},
		"apply, narrower":             {[]string{"8080->" + web}, applies(here4 + "->" + other), here4, web, true},
		"apply, what stays":           {[]string{"8080->" + web}, applies("8080->"+web, "8081->"+web), here4, web, false},
		"purge":                       {[]string{"8080->" + web}, func(e *Engine) error { return e.Purge(t.Context()) }, here4, web, true},
		"unpublish over UDP":          {[]string{"8080->" + web + "/udp"}, unpublishes("8080->" + web + "/udp"), here4, web, false},
		"replace one by other family": {[]string{here4 + "->" + web}, replaces(here4 + "->" + web6), here4, web, true},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openFake(t)
			publish(t, e, test.published...)
			answered := flow(nat.TCP, test.dst, test.from)
			opening := answered
			opening.Status = conntrack.StatusConfirmed
			b.flows.flows, b.flows.passes = []conntrack.Flow{answered, opening}, nil
			require.NoError(t, test.call(e))
			want := []conntrack.Flow{answered, opening}
			if test.deleted {
				want = want[:1]
			}
			require.Equal(t, want, b.flows.flows)
			require.LessOrEqual(t, len(b.flows.passes), 1, "one pass over the table")
			if name == "publish" || name == "replace, the same" {
				require.Empty(t, b.flows.passes)
			}
		})
	}
}

func all(call func(*Engine, ...nat.Mapping) error, texts []string) func(*Engine) error {
	return func(e *Engine) error {
		ms := make([]nat.Mapping, len(texts))
		for i, text := range texts {
			m, err := nat.ParseMappingText(text)
			if err != nil {
				return err
			}
			ms[i] = m
		}
		return call(e, ms...)
	}
}

func publishes(texts ...string) func(*Engine) error {
	return all(func(e *Engine, ms ...nat.Mapping) error {
		_, err := e.Publish(context.Background(), nat.PublishOptions{}, ms...)
		return err
	}, texts)
}

func replaces(texts ...string) func(*Engine) error {
	return all(func(e *Engine, ms ...nat.Mapping) error {
		_, err := e.Publish(context.Background(), nat.PublishOptions{Replace: true}, ms...)
		return err
	}, texts)
}

func unpublishes(texts ...string) func(*Engine) error {
	return all(func(e *Engine, ms ...nat.Mapping) error {
		_, err := e.Remove(context.Background(), nat.Removal{Mappings: ms})
		return err
	}, texts)
}

func applies(texts ...string) func(*Engine) error {
	return all(func(e *Engine, ms ...nat.Mapping) error { _, err := e.Apply(context.Background(), ms...); return err }, texts)
}

func TestKillEndsTCP(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "8080->172.30.0.2:80", "8081->172.30.0.2:81", "8080->172.30.0.2:80/udp")
	flows := []conntrack.Flow{
		flow(nat.TCP, local4+":8080", "172.30.0.2:80"),      // its own
		flow(nat.TCP, local4+":8080", local4+":8080"),       // the host's own service, from before
		flow(nat.TCP, local4+":8081", "172.30.0.2:81"),      // another mapping
		flow(nat.TCP, "198.51.100.7:8080", "172.30.0.2:80"), // in transit
		flow(nat.TCP, "172.30.0.2:80", "172.30.0.2:80"),     // straight to the backend
		flow(nat.UDP, local4+":8080", "172.30.0.2:80"),      // another protocol's
	}
	b.flows.flows = append(b.flows.flows, flows...)
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "8080->172.30.0.2:80")}, Kill: true})
	require.NoError(t, err)
	require.Equal(t, flows[1:], b.flows.flows)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "8080->172.30.0.2:80/udp")}, Kill: true})
	require.NoError(t, err)
	require.Equal(t, flows[1:5], b.flows.flows)
}

// A replacement that kills ends the flows to other backends than the new one, TCP and UDP.
func TestReplaceAndKill(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "8080->172.30.0.2:80", "8081->172.30.0.2:81", "8080->172.30.0.2:80/udp")
	flows := []conntrack.Flow{
		flow(nat.TCP, local4+":8080", "172.30.0.2:80"),      // to the old backend
		flow(nat.TCP, otherLocal4+":8080", "172.30.0.3:80"), // to the new one already
		flow(nat.TCP, local4+":8081", "172.30.0.2:81"),      // another mapping
		flow(nat.TCP, "198.51.100.7:8080", "172.30.0.2:80"), // in transit
		flow(nat.UDP, local4+":8080", "172.30.0.2:80"),      // another protocol's
	}
	b.flows.flows = slices.Clone(flows)
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "8080->172.30.0.3:80"))
	require.NoError(t, err)
	require.Equal(t, flows, b.flows.flows)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "8080->172.30.0.2:80"))
	require.NoError(t, err)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true, Kill: true}, nattest.Mapping(t, "8080->172.30.0.3:80"), nattest.Mapping(t, "8082->172.30.0.3:82"))
	require.NoError(t, err)
	require.Equal(t, flows[1:], b.flows.flows)
	requireConsistent(t, b, e)
}

// A mapping for one address keeps its flows, whatever happens to one for any address that
// others added.
func TestFlowsOfTheNarrower(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	b.write(t, foreign("udp4", "80", "172.30.0.2:80", ""), foreign("udp4_host", local4+":80", "172.30.0.2:80", ""))
	e = b.open(t)
	f := flow(nat.UDP, local4+":80", "172.30.0.2:80")
	b.flows.flows = []conntrack.Flow{f, flow(nat.UDP, otherLocal4+":80", "172.30.0.2:80")}
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80/udp")}})
	require.NoError(t, err)
	require.Equal(t, []conntrack.Flow{f}, b.flows.flows)
}

// The filter lets the kernel send only flows that may match.
func TestFlowFilter(t *testing.T) {
	tests := map[string]struct {
		texts []string
		want  conntrack.Filter
	}{
		"one port":             {[]string{"53->172.30.0.2:53/udp"}, conntrack.Filter{Dst: any4(), FirstPort: 53, LastPort: 53}},
		"IPv6":                 {[]string{"53->[fd00:30::2]:53/udp"}, conntrack.Filter{Dst: any6(), FirstPort: 53, LastPort: 53}},
		"both":                 {[]string{"53->[fd00:30::2]:53/udp", "55->172.30.0.2:53/udp"}, conntrack.Filter{FirstPort: 53, LastPort: 55}},
		"one address":          {[]string{local4 + ":53-54->172.30.0.2:53-54/udp"}, conntrack.Filter{Dst: netip.MustParseAddr(local4), FirstPort: 53, LastPort: 54}},
		"two addresses":        {[]string{local4 + ":53->172.30.0.2:53/udp", otherLocal4 + ":50->172.30.0.2:53/udp"}, conntrack.Filter{Dst: any4(), FirstPort: 50, LastPort: 53}},
		"an address and any":   {[]string{local4 + ":53->172.30.0.2:53/udp", "50->172.30.0.2:53/udp"}, conntrack.Filter{Dst: any4(), FirstPort: 50, LastPort: 53}},
		"addresses of both":    {[]string{local4 + ":53->172.30.0.2:53/udp", "[" + local6 + "]:53->[fd00:30::2]:53/udp"}, conntrack.Filter{FirstPort: 53, LastPort: 53}},
		"loopback beside them": {[]string{"127.0.0.1:10->172.30.0.2:53/udp", local4 + ":53->172.30.0.2:53/udp"}, conntrack.Filter{Dst: netip.MustParseAddr(local4), FirstPort: 53, LastPort: 53}},
	}
	for name, test := range tests {
		e, b := openFake(t)
		publish(t, e, test.texts...)
		test.want.Proto = uint8(nat.UDP)
		require.Equal(t, []conntrack.Filter{test.want}, b.flows.passes, name)
	}
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "127.0.0.1:53->172.30.0.2:53/udp")
	require.Empty(t, b.flows.passes, "nothing over UDP that is translated: no pass")
}

func any4() netip.Addr { return netip.IPv4Unspecified() }

func any6() netip.Addr { return netip.IPv6Unspecified() }

// Without routes nothing is deleted, and the change is undone.
func TestFlowsWithoutRoutes(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	before := b.kernel.Dump()
	b.flows.flows = []conntrack.Flow{flow(nat.UDP, local4+":80", local4+":80"), flow(nat.UDP, otherLocal4+":80", otherLocal4+":80")}
	cause := errors.New("no routing table today")
	b.host.hook = func(string) error {
		if b.host.asked > 2 {
			return cause
		}
		return nil
	}
	b.host.asked = 1
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80/udp"))
	require.ErrorIs(t, err, cause)
	require.Len(t, b.flows.flows, 2)
	require.Equal(t, before, b.kernel.Dump())
	requireConsistent(t, b, e)
}

// When the route to a backend changes, flows that it has not answered end; others go on.
func TestFlowsFollowRoutes(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->10.9.0.2:80", "81->172.30.0.2:80")
	require.NoError(t, e.core.follow(t.Context()))
	answered := flow(nat.TCP, local4+":80", "10.9.0.2:80")
	answered.Status |= conntrack.StatusDNAT
	opening := answered
	opening.Status = conntrack.StatusDNAT
	other := opening
	other.ReplySrc = netip.MustParseAddrPort("172.30.0.2:80")
	datagrams := opening
	datagrams.Proto = uint8(nat.UDP)
	b.flows.flows = []conntrack.Flow{answered, other, opening, datagrams}
	b.flows.passes = nil
	require.NoError(t, e.core.follow(t.Context()))
	require.Empty(t, b.flows.passes, "nothing has changed")
	for prefix, r := range b.host.routes {
		if r.Link == "eth1" {
			r.Link = "eth7"
			b.host.routes[prefix] = r
		}
	}
	require.NoError(t, e.core.follow(t.Context()))
	require.Equal(t, []conntrack.Flow{answered, other}, b.flows.flows)
	require.Len(t, b.flows.passes, 2)
}

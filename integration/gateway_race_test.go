// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// envGatewayRaces is how many races there are.
const envGatewayRaces = "NFTNAT_GATEWAY_RACES"

// An operator and a client change the same port at the same time: what the operator's command says is what there is
// afterwards, whoever came first, and no lease is beside it.
func TestGatewayRaces(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostLAN, "--quota", "60000", "--min-lifetime", "1s")
	b.start(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c, cr := b.dial(t, b.one), &crowd{ns: b.one, router: b.address}
	second := b.dial(t, b.one) // to which no answer comes that belongs to the race
	client := b.one.V4
	operator := b.api.As("operator")

	rounds := labtest.RoundsOf(t, envGatewayRaces, "races", 150, 500)
	displaced, kept := 0, 0
	for i := range rounds {
		port := uint16(10000 + i%40000)
		nonce := fmt.Sprintf("race %07d", i)
		ask := func(c *portClient, lifetime uint32, text string) pcpMap {
			m := pcpMap{nonce: nonce, proto: unix.IPPROTO_TCP, internal: port, external: port, lifetime: lifetime}
			if text != "" {
				m.options = append([]byte{128, 0, 0, byte(len(text))}, text...)
			}
			return m.send(t, c)
		}
		upnp := false // the client has, or had, a lease of UPnP
		igd := func(internal uint16, action string) {
			upnp = true
			args := []string{"NewRemoteHost", "", "NewExternalPort", fmt.Sprint(port), "NewProtocol", "TCP"}
			if action == "AddPortMapping" {
				args = append(args, "NewInternalPort", fmt.Sprint(internal), "NewInternalClient", client.String(), "NewEnabled", "1",
					"NewPortMappingDescription", "race", "NewLeaseDuration", fmt.Sprint(600*random.IntN(2)))
			}
			_, _, err := cr.soap(client, action, args...)
			require.NoError(t, err)
		}
		// The lease that there is before, and what the client does about it.
		var does func()
		switch what := random.IntN(9); what {
		case 0: // none: it asks for the port
			does = func() { ask(c, 600, "") }
		case 1:
			does = func() { igd(port, "AddPortMapping") }
		case 2, 3, 4:
			require.Zero(t, ask(c, 600, "").result)
			does = []func(){func() { ask(c, 1200, "") }, func() { ask(c, 600, "text") }, func() { ask(c, 0, "") }}[what-2]
		case 5, 6:
			igd(port, "AddPortMapping")
			does = []func(){func() { igd(port+1, "AddPortMapping") }, func() { igd(port, "DeletePortMapping") }}[what-5]
		default:
			result, _, _ := c.pmp(t, pmpTCP, port, port, 600)
			require.Zero(t, result)
			does = []func(){func() { ask(c, 600, "") }, func() { _, _, _ = c.pmp(t, pmpTCP, port, 0, 0) }}[what-7]
		}

		// What the operator does, and what is to be there then.
		m := nat.Mapping{
			Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.IPv4Unspecified(), port),
			Backend: netip.AddrPortFrom([]netip.Addr{client, b.two.V4}[random.IntN(2)], port), NoProxy: random.IntN(2) == 0,
		}
		var operate func() error
		gone := false
		switch random.IntN(4) {
		case 0:
			gone = true
			operate = func() error {
				_, err := operator.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
				if errors.Is(err, nat.ErrNotFound) {
					return nil
				}
				return err
			}
		case 1:
			m.Name = "web"
			operate = func() error { _, err := operator.Apply(t.Context(), m); return err }
		default:
			operate = func() error {
				done, err := operator.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
				if err == nil {
					m.Name = done[0].Name
				}
				return err
			}
		}
		var race sync.WaitGroup
		start := make(chan struct{})
		pause := time.Duration(random.IntN(3000)) * time.Microsecond
		var err error
		race.Go(func() { <-start; does() })
		race.Go(func() { <-start; time.Sleep(pause); err = operate() })
		close(start)
		race.Wait()
		require.NoError(t, err)

		all, err := operator.Mappings(t.Context())
		require.NoError(t, err)
		at := slices.IndexFunc(all, func(o nat.Mapping) bool { return o.Proto == m.Proto && o.Frontend == m.Frontend })
		if gone { // the port may have been taken before, or after
			if at >= 0 {
				kept++
			}
		} else {
			require.GreaterOrEqual(t, at, 0, "round %d: %v is gone", i, m)
			require.Equal(t, m, all[at], "round %d", i)
			displaced++
		}
		// The client that asks again gets another port: also at once, but for what is UPnP's, with which it is answered as the
		// gateway knows it.
		if !gone {
			knows := func() {
				await(t, "the gateway to know that the lease is gone", func() bool { // events come a moment later
					return !slices.ContainsFunc(b.state(t).Leases, func(l api.GatewayLease) bool { return l.External == port })
				})
			}
			if upnp {
				knows()
			}
			again := ask(second, 600, "more")
			require.Zero(t, again.result)
			all, err = operator.Mappings(t.Context())
			require.NoError(t, err)
			require.Contains(t, all, m, "round %d", i)
			knows()
			if m.Backend != netip.AddrPortFrom(client, port) {
				require.NotEqual(t, port, again.external)
			}
		}
		await(t, "the leases to be gone", func() bool { // a request that was sent again may have made one after all
			_, err := operator.Apply(t.Context())
			require.NoError(t, err)
			return len(b.state(t).Leases) == 0
		})
	}
	t.Logf("%d races: the operator's mapping stood in %d; a lease after rm in %d", rounds, displaced, kept)
}

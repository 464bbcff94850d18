// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// limitedAndPublished reports which of the elements of a limited tcp 8080 are in the table.
func limitedAndPublished(b *testbed) (limit, clients, port bool) {
	for _, el := range elementsIn(b.kernel.Dump()) {
		limit = limit || strings.HasPrefix(el, "limited { ipv4 . tcp . 8080")
		clients = clients || strings.HasPrefix(el, "tcp4_from { 0.0.0.0/0 . 8080")
		port = port || strings.HasPrefix(el, "tcp4 { 8080")
	}
	return limit, clients, port
}

func publishLimited(ctx context.Context, t *testing.T, e *Engine) error {
	t.Helper()
	m := nattest.Mapping(t, "8080->172.30.0.2:80")
	m.From = must(nat.ParseSources("192.0.2.0/24"))
	_, err := e.Publish(ctx, nat.PublishOptions{}, m)
	return err
}

// A packet asks who may reach a port before it asks for the port. So the limits are there a
// transaction earlier, and are not there without the port when the change fails, or its process
// is killed.
func TestLimitsBeforePorts(t *testing.T) {
	for _, beside := range []string{"", "1000-1999->172.30.0.2:1000-1999"} {
		t.Run(beside, func(t *testing.T) {
			e, b := openFake(t)
			publish(t, e, "443->172.30.0.2:443")
			if beside != "" {
				publish(t, e, beside)
			}
			var seen []string
			b.kernel.After(func(op string) error {
				limit, clients, port := limitedAndPublished(b)
				require.False(t, port && !clients)
				switch {
				case op != "Update":
				case limit && port:
					seen = append(seen, "published")
				case limit:
					seen = append(seen, "limited")
				case port:
					seen = append(seen, "open to all")
				default:
					seen = append(seen, "gone")
				}
				return nil
			})
			require.NoError(t, publishLimited(t.Context(), t, e))
			require.Equal(t, []string{"gone", "limited", "published"}, slices.Compact(seen))
			remove(t, e, "8080->172.30.0.2:80")
			require.Equal(t, []string{"gone", "limited", "published", "limited", "gone"}, slices.Compact(seen))
			b.kernel.After(nil)
			requireOptions(t, b, e)

			// The clients are there before the limit, and the limit before the port.
			const steps = 3
			for at := 2; at <= steps; at++ {
				for _, killed := range []bool{false, true} {
					if killed && at != steps {
						continue
					}
					updates := 0
					b.kernel.Hook(func(op string) error {
						if op == "Update" {
							updates++
						}
						if updates == at || killed && updates > at {
							return unix.EIO
						}
						return nil
					})
					require.ErrorIs(t, publishLimited(t.Context(), t, e), unix.EIO)
					b.kernel.Hook(nil)
					limit, clients, port := limitedAndPublished(b)
					require.Equal(t, [3]bool{killed, killed, false}, [3]bool{limit, clients, port})
				}
			}
			next := b.open(t)
			require.NotContains(t, publishedBy(next), "8080->172.30.0.2:80")
			requireOptions(t, b, next)
			require.NoError(t, publishLimited(t.Context(), t, next))
			requireOptions(t, b, next)
		})
	}
}

// A limited range that was being replaced when its engine was killed is limited whenever it is
// in a map that packets ask.
func TestLimitedRangeKilled(t *testing.T) {
	for at := 1; at <= 6; at++ {
		e, b := openFake(t)
		m := nattest.Mapping(t, "1000-1009->172.30.0.2:1000-1009")
		m.From = must(nat.ParseSources("192.0.2.0/24"))
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
		require.NoError(t, err)
		updates := 0
		b.kernel.Hook(func(op string) error {
			if op == "Update" {
				updates++
			}
			if updates >= at {
				return unix.EIO
			}
			return nil
		})
		b.kernel.After(func(string) error {
			els := elementsIn(b.kernel.Dump())
			for _, next := range []string{"", "_next"} {
				has := func(set string) bool {
					return slices.ContainsFunc(els, func(el string) bool { return strings.HasPrefix(el, set+next+" ") })
				}
				require.True(t, !has("tcp4_range") || has("limited_range") && has("from4_range"), "open to all: %v", els)
			}
			return nil
		})
		m = nattest.Mapping(t, "1000-1009->172.30.0.3:1000-1009")
		m.From = must(nat.ParseSources("198.51.100.0/24"))
		_, _ = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
		b.kernel.Hook(nil)
		next := b.open(t)
		requireOptions(t, b, next)
		b.kernel.After(nil)
		for _, el := range rangeElements(b) {
			require.NotContains(t, el, "_next")
		}
	}
}

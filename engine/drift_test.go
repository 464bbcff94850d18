// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// damages are what others may do to the rules of the table.
func damages() map[string]func(*nfttest.Table) {
	return map[string]func(*nfttest.Table){
		"a rule more": func(t *nfttest.Table) { t.Chains[0].Rules = append(t.Chains[0].Rules, nft.Rule{nft.Accept()}) },
		"a guard less": func(t *nfttest.Table) {
			t.Chains = slices.DeleteFunc(t.Chains, func(c nft.Chain) bool { return c.Name == "raw-prerouting" })
		},
		"no rules": func(t *nfttest.Table) { t.Chains[1].Rules = nil },
		"a set less": func(t *nfttest.Table) {
			t.Sets = slices.DeleteFunc(t.Sets, func(s nft.Set) bool { return s.Name == "inside6" })
		},
		"a map less":     func(t *nfttest.Table) { t.Sets = slices.DeleteFunc(t.Sets, isMap("udp6_host")) },
		"a set more":     func(t *nfttest.Table) { t.Sets = append(t.Sets, nft.Set{Name: "x", Key: nft.Type{nft.IPv4Addr}}) },
		"nothing at all": func(t *nfttest.Table) { t.Sets, t.Chains, t.Elements = nil, nil, nil },
	}
}

func isMap(name string) func(nft.Set) bool { return func(m nft.Set) bool { return m.Name == name } }

func TestDriftIsRepaired(t *testing.T) {
	for name, damage := range damages() {
		t.Run(name, func(t *testing.T) {
			e, b := openFake(t)
			publish(t, e, "0.0.0.0:80->172.30.0.2:80", local4+":81->10.9.0.2:81")
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "90->172.30.0.2:90", time.Minute))
			require.NoError(t, err)
			want, whole := publishedBy(e), b.kernel.Dump()
			b.clock.advance(time.Second)
			b.edit(t, damage)
			damaged, info := b.kernel.Dump(), b.table(t)
			if name == "nothing at all" {
				want, whole = nil, schema.Ruleset(DefaultTable).String()
			}
			r := b.openWith(t, Options{ReadOnly: true})
			require.Equal(t, want, publishedBy(r))
			require.Equal(t, damaged, b.kernel.Dump(), "reading puts nothing right")

			var log bytes.Buffer
			e = b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
			require.Equal(t, want, publishedBy(e))
			require.Equal(t, withoutTimeouts(whole), withoutTimeouts(b.kernel.Dump()))
			require.Contains(t, log.String(), "table was repaired")
			require.Equal(t, info, b.table(t), "where it stands")
			requireConsistent(t, b, e)
			log.Reset()
			b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
			require.Empty(t, log.String(), "once is enough")
		})
	}
}

// A damaged table with comments that nft(8) could not load is put right as well.
func TestDriftWithHostileComments(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	b.write(t, foreign("tcp4", "80", "172.30.0.2:80", "\"\n"), foreign("tcp4", "81", "172.30.0.2:0", "\"\n"))
	b.edit(t, damages()["no rules"])
	e = b.open(t)
	require.Equal(t, []string{"79->172.30.0.2:80", `80->172.30.0.2:80 \x22\n`}, publishedBy(e))
	requireConsistent(t, b, e)
	drift, err := b.kernel.Conn().Drift(schema.Ruleset(DefaultTable))
	require.NoError(t, err)
	require.Empty(t, drift)
}

// While an engine looks, others go on changing the rulesets.
func TestOpenWhileOthersChange(t *testing.T) {
	damage := damages()["a set less"]
	ops := []string{"Table", "Drift", "Elements", "Generation", "Repair"}
	changes := map[string]func(*testbed){
		"something else": func(b *testbed) {
			b.kernel.Edit(func(tables map[string]*nfttest.Table) {
				tables["other"] = &nfttest.Table{Table: nft.Table{Name: "other"}}
			})
		},
		"a mapping more": func(b *testbed) {
			b.kernel.Edit(func(tables map[string]*nfttest.Table) {
				tables[DefaultTable].Elements = append(tables[DefaultTable].Elements, foreign("tcp4", "99", "172.30.0.2:80", ""))
			})
		},
		"the table gone": func(b *testbed) { b.kernel.Flush() },
	}
	for _, op := range ops {
		for name, change := range changes {
			e, b := openFake(t)
			publish(t, e, "80->172.30.0.2:80")
			b.edit(t, damage)
			once := false
			b.kernel.Hook(func(now string) error {
				if now == op && !once {
					once = true
					change(b)
				}
				return nil
			})
			e, err := b.tryOpen(Options{NoSysctl: true})
			b.kernel.Hook(nil)
			require.NoError(t, err, "%s before %s", name, op)
			requireConsistent(t, b, e)
			want := map[string][]string{
				"something else": {"80->172.30.0.2:80"},
				"a mapping more": {"80->172.30.0.2:80", "99->172.30.0.2:80"},
			}
			require.Equal(t, want[name], publishedBy(e), "%s before %s", name, op)
		}
	}
	// Without a pause: it gives up.
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	b.edit(t, damage)
	b.kernel.Hook(func(op string) error {
		if op == "Replace" || op == "Elements" {
			changes["something else"](b)
		}
		return nil
	})
	_, err := b.tryOpen(Options{NoSysctl: true})
	require.ErrorIs(t, err, nft.ErrStale)
}

// What is read set by set, of a table that lacks one, is of one moment too.
func TestReadWhileOthersChange(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	b.edit(t, damages()["a set less"])
	reads := 0
	b.kernel.Hook(func(op string) error {
		if op == "Elements" {
			if reads++; reads == 3 { // all, then the first alone
				b.edit(t, func(t *nfttest.Table) {
					t.Elements = slices.DeleteFunc(t.Elements, isAt(elementKey{"tcp4", netip.AddrPortFrom(netip.Addr{}, 80)}))
					t.Elements = append(t.Elements, foreign("tcp4_host", local4+":80", "172.30.0.2:80", ""))
				})
			}
		}
		return nil
	})
	require.Equal(t, []string{local4 + ":80->172.30.0.2:80"}, publishedBy(b.openWith(t, Options{ReadOnly: true})))
}

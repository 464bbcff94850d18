// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// edit changes the engine's table as another process would.
func (b *testbed) edit(tb testing.TB, f func(*nfttest.Table)) {
	tb.Helper()
	b.kernel.Edit(func(tables map[string]*nfttest.Table) {
		require.Contains(tb, tables, DefaultTable)
		f(tables[DefaultTable])
	})
}

// write adds elements of foreign making.
func (b *testbed) write(tb testing.TB, es ...nft.Element) {
	tb.Helper()
	b.edit(tb, func(t *nfttest.Table) { t.Elements = append(t.Elements, es...) })
}

func foreign(set, key, value, comment string) nft.Element {
	e := nft.Element{Set: set, Comment: comment, Value: netip.MustParseAddrPort(value)}
	if ap, err := netip.ParseAddrPort(key); err == nil {
		e.Key = nft.AddrPortKey(ap)
	} else {
		e.Key = nft.PortKey(netip.MustParseAddrPort("0.0.0.0:" + key).Port())
	}
	return e
}

func TestAdopt(t *testing.T) {
	e, b := openFake(t)
	lease := leaseFor(t, b, "7-9->172.30.0.2:7-9", time.Minute)
	lease.NoProxy = true
	named := nattest.Mapping(t, "[::]:53->[fd00:30::2]:53/udp")
	named.Name, named.NoProxy = "dns ∂ #1", true
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, append(mapAll(t, "80->172.30.0.2:80", "0.0.0.0:81->172.30.0.2:81", local4+":82->10.9.0.2:82",
		"127.0.0.1:83->172.30.0.2:83", "["+local6+"]:80->[fd00:30::3]:80/udp"), lease, named)...)
	require.NoError(t, err)
	want, dump := publishedBy(e), b.kernel.Dump()
	b.clock.advance(10 * time.Second)
	for range 3 { // killed each time
		e = b.open(t)
		require.Equal(t, want, publishedBy(e))
		require.Equal(t, dump, b.kernel.Dump(), "adopting changes nothing")
		requireConsistent(t, b, e)
	}
	// What was adopted is owned: in the way of others, and removable.
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, local4+":80->172.30.0.2:80"))
	require.ErrorIs(t, err, nat.ErrConflict)
	_, err = e.Apply(t.Context())
	require.NoError(t, err)
	require.Empty(t, elementsIn(b.kernel.Dump()))
}

func TestAdoptForeignElements(t *testing.T) {
	tests := map[string]struct {
		es   []nft.Element
		want []string
	}{
		"both families, one port": {
			[]nft.Element{foreign("tcp4", "80", "172.30.0.2:80", "four"), foreign("tcp6", "80", "[fd00:30::2]:80", "six [no-proxy]")},
			[]string{"0.0.0.0:80->172.30.0.2:80 four", "[::]:80->[fd00:30::2]:80 six no-proxy"},
		},
		"both families, one of them said to be for its own": {
			[]nft.Element{foreign("tcp4", "80", "172.30.0.2:80", "[one-family]"), foreign("tcp6", "80", "[fd00:30::2]:80", "six")},
			[]string{"80->[fd00:30::2]:80 six", "0.0.0.0:80->172.30.0.2:80"},
		},
		"any and some addresses": {
			[]nft.Element{
				foreign("tcp4", "80", "172.30.0.2:80", ""), foreign("tcp4_host", local4+":80", "172.30.0.3:80", ""),
				foreign("tcp4_host", otherLocal4+":80", "172.30.0.4:80", ""), foreign("tcp6_host", "["+local6+"]:80", "[fd00:30::2]:80", ""),
			},
			[]string{
				"80->172.30.0.2:80", local4 + ":80->172.30.0.3:80", otherLocal4 + ":80->172.30.0.4:80",
				"[" + local6 + "]:80->[fd00:30::2]:80",
			},
		},
		"all at once": {
			[]nft.Element{
				foreign("udp4", "80", "172.30.0.2:80", ""), foreign("udp6", "80", "[fd00:30::2]:80", ""),
				foreign("udp4_host", local4+":80", "172.30.0.3:80", ""), foreign("udp6_host", "["+local6+"]:80", "[fd00:30::2]:80", ""),
			},
			[]string{
				"0.0.0.0:80->172.30.0.2:80/udp", local4 + ":80->172.30.0.3:80/udp",
				"[::]:80->[fd00:30::2]:80/udp", "[" + local6 + "]:80->[fd00:30::2]:80/udp",
			},
		},
		"comments of all kinds": {
			[]nft.Element{
				foreign("tcp4", "101", "172.30.0.2:80", "a \"quote\"\n\x1b[31m [no-proxy] "),
				foreign("tcp4", "102", "172.30.0.2:80", "\xff\xfe [one-family no-proxy no-such-word]"),
				foreign("tcp4", "103", "172.30.0.2:80", "[[[no-proxy]"),
				foreign("tcp4", "104", "172.30.0.2:80", "  spaces  "),
			},
			[]string{
				`101->172.30.0.2:80 a \x22quote\x22\n\x1b[31m [no-proxy] `, "103->172.30.0.2:80 [[[no-proxy]", "104->172.30.0.2:80   spaces  ",
				"0.0.0.0:102->172.30.0.2:80 \\xff\\xfe no-proxy",
			},
		},
		"loopback, said to have no proxy": {
			[]nft.Element{foreign("tcp4_host", "127.0.0.1:80", "172.30.0.2:80", "x [no-proxy]")},
			[]string{"127.0.0.1:80->172.30.0.2:80 x"},
		},
		"from one family to the other, said to be otherwise": {
			[]nft.Element{
				foreign("tcp4_to6", local4+":80", "[fd00:30::2]:80", "x [no-proxy]"),
				foreign("udp6_to4", "[::]:80", "172.30.0.2:80", "[one-family]"),
				foreign("udp4_to6", "0.0.0.0:80", "[fd00:30::2]:80", ""),
			},
			[]string{
				local4 + ":80->[fd00:30::2]:80 x", "0.0.0.0:80->[fd00:30::2]:80/udp", "[::]:80->172.30.0.2:80/udp",
			},
		},
		"from one family to the other, beside any": {
			[]nft.Element{foreign("tcp4", "80", "172.30.0.2:80", ""), foreign("tcp4_to6", "0.0.0.0:80", "[fd00:30::2]:80", "")},
			[]string{"80->172.30.0.2:80", "0.0.0.0:80->[fd00:30::2]:80"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for range 5 { // the kernel promises no order
				e, b := openFake(t)
				publish(t, e, "79->172.30.0.2:80")
				_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "79->172.30.0.2:80")}})
				require.NoError(t, err)
				empty := b.kernel.Dump()
				b.write(t, test.es...)
				want := b.kernel.Dump()
				if test.want == nil {
					want = empty // what cannot be a mapping goes
				}
				e = b.open(t)
				requireSegments(t, b, e)
				require.Equal(t, want, withoutSegments(b.kernel.Dump()))
				require.Equal(t, test.want, publishedBy(e))
				for _, m := range must(e.Mappings(t.Context())) {
					require.NoError(t, m.Validate(), "it can be exported and applied")
				}
				// One after the other they can be removed, and each gives back what
				// no other has.
				for _, m := range must(e.Mappings(t.Context())) {
					_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
					require.NoError(t, err)
					requireReserved(t, e)
				}
				publish(t, e, "81->172.30.0.2:80", "81->172.30.0.2:80/udp")
			}
		})
	}
}

// What no engine can have written goes, unless the table is only read.
func TestAdoptStrangeElements(t *testing.T) {
	strange := []nft.Element{
		foreign("tcp4", "0", "172.30.0.2:80", ""), foreign("tcp4", "80", "172.30.0.2:0", ""),
		foreign("udp4_host", "0.0.0.0:80", "172.30.0.2:80", ""), foreign("udp6_host", "[::]:80", "[fd00:30::2]:80", ""),
		foreign("tcp4", "90", "127.0.0.1:80", ""), foreign("tcp4", "91", "224.0.0.1:80", ""),
		foreign("tcp4_host", "224.0.0.1:92", "172.30.0.2:80", ""), foreign("tcp6", "93", "[fe80::1]:80", ""),
		foreign("tcp4_to6", local4+":0", "[fd00:30::2]:80", ""), foreign("udp4_to6", local4+":80", "[::1]:80", ""),
		foreign("tcp6_to4", "[::ffff:192.0.2.1]:80", "172.30.0.2:80", ""), foreign("udp6_to4", "[ff02::1]:80", "172.30.0.2:80", ""),
	}
	for _, el := range strange {
		e, b := openFake(t)
		publish(t, e, "79->172.30.0.2:80")
		whole := b.kernel.Dump()
		b.write(t, el)
		before := b.kernel.Dump()
		require.Equal(t, []string{"79->172.30.0.2:80"}, publishedBy(b.openWith(t, Options{ReadOnly: true})))
		require.Equal(t, before, b.kernel.Dump())
		e = b.open(t)
		require.Equal(t, []string{"79->172.30.0.2:80"}, publishedBy(e), "%s", el)
		require.Equal(t, whole, b.kernel.Dump(), "%s", el)
		requireConsistent(t, b, e)
		publish(t, e, "80->172.30.0.2:80", "90-93->172.30.0.2:80-83", "80->172.30.0.2:80/udp")
	}
}

// requireReserved checks the port allocators against the mappings alone: where the
// kernel holds what conflicts, the next engine may see it otherwise.
func requireReserved(tb testing.TB, e *Engine) {
	tb.Helper()
	require.Empty(tb, misreserved(e, must(e.Mappings(tb.Context()))))
}

// What conflicts with a mapping that was found is refused, however it was found.
func TestAdoptedConflictsHold(t *testing.T) {
	for range 10 {
		e, b := openFake(t)
		publish(t, e, "79->172.30.0.2:80")
		b.write(t, foreign("tcp4", "80", "172.30.0.2:80", ""), foreign("tcp4_host", local4+":80", "172.30.0.3:80", ""))
		e = b.open(t)
		for range 2 {
			for _, text := range []string{"80->172.30.0.9:80", local4 + ":80->172.30.0.2:80", "0.0.0.0:80->172.30.0.2:80"} {
				_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, text))
				require.ErrorIs(t, err, nat.ErrConflict, text)
				var conflict *nat.ConflictError
				require.ErrorAs(t, err, &conflict, text)
			}
			if len(publishedBy(e)) == 3 {
				_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}})
				require.NoError(t, err)
			}
		}
		publish(t, e, otherLocal4+":80->172.30.0.2:80")
		_, err := e.Apply(t.Context(), nattest.Mapping(t, "80->172.30.0.9:80"))
		require.NoError(t, err)
		requireConsistent(t, b, e)
	}
}

// An Apply that fails leaves what conflicts as it was found.
func TestAdoptedConflictsAndApply(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	b.write(t, foreign("udp4", "80", "172.30.0.2:80", ""), foreign("udp4_host", local4+":80", "172.30.0.3:80", ""))
	for range 5 {
		e = b.open(t)
		before := b.kernel.Dump()
		cause := errors.New("no")
		b.flows.hook = func(string) error { return cause }
		_, err := e.Apply(t.Context(), nattest.Mapping(t, "0.0.0.0:80->172.30.0.4:80/udp"))
		b.flows.hook = nil
		require.ErrorIs(t, err, cause)
		require.NotContains(t, err.Error(), "undo")
		require.Equal(t, before, b.kernel.Dump())
		requireConsistent(t, b, e)
	}
	_, err := e.Apply(t.Context(), nattest.Mapping(t, "0.0.0.0:80->172.30.0.4:80/udp"))
	require.NoError(t, err)
	requireConsistent(t, b, e)
}

// A mapping for any address that was found beside one for its other family cannot
// take that one's place.
func TestAdoptedConflictHasThePlace(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	b.write(t, foreign("tcp6", "80", "[fd00:30::2]:80", ""), foreign("tcp4", "80", "172.30.0.2:80", "four [one-family]"))
	e = b.open(t)
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "80->172.30.0.3:80"))
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "four", conflict.Have.Name)
	require.NoError(t, replaces("80->[fd00:30::3]:80")(e))
	require.NoError(t, unpublishes("0.0.0.0:80->172.30.0.2:80")(e))
	require.NoError(t, replaces("80->172.30.0.3:80")(e))
	requireConsistent(t, b, e)
}

// An element that is no mapping goes when it is noticed.
func TestForeignElementInTheWay(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "79->172.30.0.2:80")
	b.write(t, foreign("tcp4", "80", "172.30.0.2:0", ""))
	publish(t, e, "78->172.30.0.2:80", "80->172.30.0.2:80")
	requireConsistent(t, b, e)
	require.Equal(t, []string{"78->172.30.0.2:80", "79->172.30.0.2:80", "80->172.30.0.2:80"}, publishedBy(e))
}

func TestSchema(t *testing.T) {
	tests := map[string]error{
		"nftnat schema 1":   nil,
		"nftnat schema 2":   nil,
		"nftnat schema 3":   nil,
		"nftnat schema 4":   nil,
		"nftnat schema 5":   nat.ErrNewer,
		"nftnat schema 999": nat.ErrNewer,
		"nftnat schema 0":   nat.ErrForeign,
		"nftnat schema -1":  nat.ErrForeign,
		"nftnat schema ":    nat.ErrForeign,
		"nftnat schema 1 ":  nat.ErrForeign,
		"nftnat schema":     nat.ErrForeign,
		"managed by other":  nat.ErrForeign,
		"":                  nat.ErrForeign,
	}
	for comment, want := range tests {
		for _, readOnly := range []bool{false, true} {
			e, b := openFake(t)
			publish(t, e, "80->172.30.0.2:80")
			b.edit(t, func(t *nfttest.Table) { t.Comment = comment })
			before := b.kernel.Dump()
			_, err := b.tryOpen(Options{ReadOnly: readOnly, NoSysctl: true})
			require.ErrorIs(t, err, want, "%q", comment)
			if want == nil && !readOnly {
				before = strings.Replace(before, comment, schema.Comment(schema.Version), 1) // an earlier one is brought up
			}
			require.Equal(t, before, b.kernel.Dump())
		}
	}
}

// A table that somebody else makes between Open and the first change is not written
// over, and nor is what another engine published in it.
func TestFirstChangeMeetsATable(t *testing.T) {
	t.Run("of nftnat", func(t *testing.T) {
		e, b := openFake(t)
		publish(t, b.open(t), "80->172.30.0.2:80")
		publish(t, e, "81->172.30.0.2:80")
		require.Equal(t, []string{"80->172.30.0.2:80", "81->172.30.0.2:80"}, publishedBy(e))
		requireConsistent(t, b, e)
	})
	t.Run("of somebody else", func(t *testing.T) {
		e, b := openFake(t)
		b.kernel.Edit(func(tables map[string]*nfttest.Table) {
			tables[DefaultTable] = &nfttest.Table{Table: nft.Table{Name: DefaultTable, Comment: "mine"}}
		})
		before := b.kernel.Dump()
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.2:80"))
		require.ErrorIs(t, err, nat.ErrForeign)
		require.Equal(t, before, b.kernel.Dump())
		_, err = e.Mappings(t.Context())
		require.ErrorIs(t, err, nat.ErrForeign)
	})
	t.Run("at the last moment", func(t *testing.T) {
		e, b := openFake(t)
		other := b.open(t)
		once := false
		b.kernel.Hook(func(op string) error {
			if op == "Restore" && !once {
				once = true
				publish(t, other, "80->172.30.0.2:80")
			}
			return nil
		})
		publish(t, e, "81->172.30.0.2:80")
		require.Equal(t, []string{"80->172.30.0.2:80", "81->172.30.0.2:80"}, publishedBy(e))
		requireConsistent(t, b, e)
	})
}

// What others delete, all of it or only the table, comes back with the next change.
func TestTableComesBack(t *testing.T) {
	for name, call := range map[string]func(*Engine) error{
		"publish": func(e *Engine) error {
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.2:81"))
			return err
		},
		"replace": func(e *Engine) error {
			_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "80->172.30.0.3:81"))
			return err
		},
		"unpublish": func(e *Engine) error {
			_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "90->172.30.0.2:81")}})
			return err
		},
	} {
		e, b := openFake(t)
		publish(t, e, "80->172.30.0.2:80", local4+":82->10.9.0.2:82", "90->172.30.0.2:90")
		before := publishedBy(e)
		b.kernel.Flush()
		require.NoError(t, call(e), name)
		require.NotEqual(t, before, publishedBy(e))
		require.Contains(t, publishedBy(e), local4+":82->10.9.0.2:82")
		requireConsistent(t, b, e)
	}
}

// What others change of the elements is found out, and taken as it is.
func TestElementsChangedByOthers(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.2:81", "82->172.30.0.2:82")
	b.edit(t, func(t *nfttest.Table) {
		t.Elements = slices.DeleteFunc(t.Elements, func(e nft.Element) bool { return e.Key == nft.PortKey(80) })
		t.Elements = append(t.Elements, foreign("tcp4", "90", "172.30.0.9:90", "theirs"))
	})
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "81->172.30.0.2:81", "80->172.30.0.2:80")})
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.Equal(t, []string{"81-82->172.30.0.2:81-82", "90->172.30.0.9:90 theirs"}, publishedBy(e))
	b.write(t, foreign("tcp4", "91", "172.30.0.9:91", "theirs"))
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, mapAll(t, "80->172.30.0.2:80", "91->172.30.0.2:91")...)
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "theirs", conflict.Have.Name)
	requireConsistent(t, b, e)
	b.write(t, foreign("tcp4", "92", "172.30.0.9:92", "theirs"))
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "92->172.30.0.2:92"))
	require.NoError(t, err, "as it is for the engine to give")
	requireConsistent(t, b, e)
}

// A set that others keep changing between looking and writing: the call gives up.
func TestDecidingGivesUp(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80")
	b.kernel.Hook(func(op string) error {
		if op == "Update" {
			return &nft.OpError{Op: "add element", Object: "tcp4 { 81 }", Err: unix.EEXIST}
		}
		return nil
	})
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "81->172.30.0.2:81"))
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, "publish tcp 81: the table was changed by somebody else")
	b.kernel.Hook(nil)
	publish(t, e, "81->172.30.0.2:81")
	requireConsistent(t, b, e)
}

func TestOpenFails(t *testing.T) {
	for _, op := range []string{"Table", "Drift", "Elements"} {
		e, b := openFake(t)
		publish(t, e, "80->172.30.0.2:80")
		cause := errors.New("no")
		b.kernel.FailNext(op, cause)
		_, err := b.tryOpen(Options{NoSysctl: true})
		require.ErrorIs(t, err, cause, op)
	}
}

// What packets follow goes before what no rule looks up: of two elements of one
// frontend the one that leads to the other family goes.
func TestAdoptShadowed(t *testing.T) {
	tests := map[string]struct {
		es   []nft.Element
		want []string
	}{
		"one address": {
			[]nft.Element{foreign("tcp4_host", local4+":80", "172.30.0.2:80", ""), foreign("tcp4_to6", local4+":80", "[fd00:30::2]:80", "")},
			[]string{local4 + ":80->172.30.0.2:80"},
		},
		"one family": {
			[]nft.Element{foreign("udp6", "80", "[fd00:30::2]:80", "[one-family]"), foreign("udp6_to4", "[::]:80", "172.30.0.2:80", "")},
			[]string{"[::]:80->[fd00:30::2]:80/udp"},
		},
		"both families": {
			[]nft.Element{
				foreign("tcp4", "80", "172.30.0.2:80", ""), foreign("tcp6", "80", "[fd00:30::2]:80", ""),
				foreign("tcp4_to6", "0.0.0.0:80", "[fd00:30::2]:80", ""), foreign("tcp6_to4", "[::]:80", "172.30.0.2:80", ""),
				foreign("udp4_to6", "0.0.0.0:80", "[fd00:30::3]:80", ""),
			},
			[]string{"0.0.0.0:80->172.30.0.2:80", "[::]:80->[fd00:30::2]:80", "0.0.0.0:80->[fd00:30::3]:80/udp"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for range 5 { // the kernel promises no order
				e, b := openFake(t)
				publish(t, e, "79->172.30.0.2:80")
				_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "79->172.30.0.2:80")}})
				require.NoError(t, err)
				b.write(t, test.es...)
				require.Equal(t, test.want, publishedBy(b.openWith(t, Options{ReadOnly: true})))
				e = b.open(t)
				require.Equal(t, test.want, publishedBy(e))
				require.Len(t, elementsIn(withoutSegments(b.kernel.Dump())), len(test.want))
				requireConsistent(t, b, e)
			}
		})
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nft"
)

// hooked is a table with two base chains, a chain that both jump to, and a set of ranges.
func hooked() nft.Table {
	t := rules()
	t.Sets = append(t.Sets, nft.Set{Name: "ranges", Key: nft.Type{nft.IPv4Addr}, Interval: true})
	jump := []nft.Rule{{nft.Jump("c")}}
	t.Chains = append(t.Chains,
		nft.Chain{Name: "forward", Hook: nft.Hook{Type: "filter", Point: "forward", Priority: nft.PriorityFilter}, Rules: jump},
		nft.Chain{Name: "prerouting", Hook: nft.Hook{Type: "nat", Point: "prerouting", Priority: nft.PriorityDstNAT}, Rules: jump})
	return t
}

// noStandIn is in the log if there is no stand-in.
const noStandIn = "while none stands in for it"

// replaced is a table that is replaced, and what a fake kernel held before each transaction.
type replaced struct {
	*Table
	kernel *nfttest.Kernel
	log    bytes.Buffer
	steps  []string
	found  map[string]nft.TableInfo // of the stand-in
	dumps  map[string]string
}

func openReplaced(t *testing.T, elements ...nft.Element) *replaced {
	t.Helper()
	r := &replaced{kernel: nfttest.New(), found: map[string]nft.TableInfo{}, dumps: map[string]string{}}
	r.Table = New(Config{
		Rules: hooked(), Dial: func() (Kernel, error) { return r.kernel.Conn(), nil },
		CheckComment: func(string) error { return nil }, NoOwner: true, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	require.NoError(t, r.Open())
	require.NoError(t, r.Create(nft.Change{Add: elements}))
	return r
}

// follow notes the steps that change a table from here on.
func (r *replaced) follow() {
	r.steps = nil
	reader := r.kernel.Conn()
	r.kernel.Hook(func(op string) error {
		switch op {
		case "Restore", "Repair", "Replace", "DeleteTable":
			r.steps = append(r.steps, op)
			r.found[op], _ = reader.Table("t-stand-in")
			r.dumps[op] = r.kernel.Dump()
		}
		return nil
	})
}

func (r *replaced) otherType() {
	r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts["t"].Sets[0].Timeout = true })
}

// While a table is replaced, another serves that is whole, is asked first, and goes with its socket.
func TestStandIn(t *testing.T) {
	r := openReplaced(t, element("192.0.2.1"))
	whole := r.kernel.Dump()
	r.otherType()
	c := load(t, r.Table)
	r.follow()
	require.NoError(t, r.Rewrite(c, []nft.Element{element("192.0.2.1")}))
	require.Equal(t, []string{"Restore", "Repair", "Restore", "DeleteTable"}, r.steps)
	require.NotContains(t, r.log.String(), noStandIn)
	require.Zero(t, r.found["Repair"].Flags&^nft.TableOwner)
	require.Equal(t, whole, r.kernel.Dump(), "nothing else is left")
	require.NotContains(t, r.dumps["Repair"], "hook forward priority -1", "it has no base chain before its elements are there")
	require.Contains(t, r.dumps["Repair"], "table inet t-stand-in")

	during := r.dumps["DeleteTable"]
	for _, text := range []string{"table inet t-stand-in {", "serves while table t is replaced", "priority filter - 1;", "priority dstnat - 1;"} {
		require.Contains(t, during, text)
	}
	info := r.found["DeleteTable"]
	require.Equal(t, nft.TableOwner, info.Flags, "it goes with its socket")
	require.False(t, info.Mine)
}

// Every way to replace a table has a stand-in, and a repair in place has one if it adds a set of
// ranges; no other has.
func TestStandInOf(t *testing.T) {
	one := []nft.Element{element("192.0.2.1")}
	for name, tt := range map[string]struct {
		do   func(r *replaced) error
		want []string
	}{
		"rewrite": {func(r *replaced) error {
			r.otherType()
			return r.Rewrite(load(t, r.Table), one)
		}, []string{"Restore", "Repair", "Restore", "DeleteTable"}},
		"correct": {func(r *replaced) error {
			r.otherType()
			r.present = false // as an engine that begins
			c := load(t, r.Table)
			return r.Correct(c, one, nft.Change{Generation: c.Generation})
		}, []string{"Restore", "Repair", "Replace", "DeleteTable"}},
		"in place": {func(r *replaced) error {
			r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts["t"].Chains = append(ts["t"].Chains, nft.Chain{Name: "x"}) })
			return r.Rewrite(load(t, r.Table), one)
		}, []string{"Repair"}},
		"a set of ranges more": {func(r *replaced) error {
			r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts["t"].Sets = ts["t"].Sets[:1] })
			return r.Rewrite(load(t, r.Table), one)
		}, []string{"Restore", "Repair", "Repair", "DeleteTable"}},
		"deleted": {func(r *replaced) error {
			r.kernel.Flush()
			return r.Rewrite(load(t, r.Table), one)
		}, []string{"Restore"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := openReplaced(t, one...)
			whole := r.kernel.Dump()
			r.follow()
			require.NoError(t, tt.do(r))
			require.Equal(t, tt.want, r.steps)
			require.Equal(t, whole, r.kernel.Dump())
			require.Empty(t, load(t, r.Table).Damage)
		})
	}
}

// A stand-in that cannot be made keeps no table from being replaced; one that others have changed
// meanwhile is not replaced, and none is left.
func TestStandInFails(t *testing.T) {
	one := []nft.Element{element("192.0.2.1")}
	for _, call := range []string{"Table", "Restore", "Repair"} {
		r := openReplaced(t, one...)
		whole := r.kernel.Dump()
		r.otherType()
		c := load(t, r.Table)
		r.kernel.FailNext(call, unix.ENOMEM)
		require.NoError(t, r.Rewrite(c, one))
		require.Contains(t, r.log.String(), noStandIn, call)
		require.Equal(t, whole, r.kernel.Dump(), call)
	}
	r := openReplaced(t, one...)
	r.otherType()
	damaged := r.kernel.Dump()
	c := load(t, r.Table)
	r.kernel.FailNext("Replace", errors.New("no"))
	require.ErrorContains(t, r.Correct(c, one, nft.Change{Generation: c.Generation}), "no")
	require.Equal(t, damaged, r.kernel.Dump())

	r.present = false // as an engine that begins

	// What another program does all the time delays it, and does not keep it from being done.
	var attempts [][]string
	require.NoError(t, r.Retry(t.Context(), func() error {
		c := load(t, r.Table)
		r.follow()
		note := len(attempts)
		if note < standInAttempts {
			r.kernel.After(func(op string) error {
				if op == "Repair" {
					r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts["other"] = &nfttest.Table{Table: nft.Table{Name: "other"}} })
				}
				return nil
			})
		}
		err := r.Correct(c, one, nft.Change{Generation: c.Generation})
		attempts = append(attempts, r.steps)
		return err
	}))
	stood := []string{"Restore", "Repair", "Replace", "DeleteTable"}
	require.Equal(t, [][]string{stood, stood, {"Replace"}}, attempts)
}

// A stand-in that is in a ruleset that was saved is deleted; a table of others with its name is not.
func TestDeleteStandIn(t *testing.T) {
	r := openReplaced(t)
	whole := r.kernel.Dump()
	left := nft.Table{Name: "t-stand-in", Comment: standInComment("t")}
	r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts[left.Name] = &nfttest.Table{Table: left} })
	both := r.kernel.Dump()
	r.ReadOnly = true
	require.NoError(t, r.DeleteStandIn())
	require.Equal(t, both, r.kernel.Dump())
	r.ReadOnly = false
	require.NoError(t, r.DeleteStandIn())
	require.Equal(t, whole, r.kernel.Dump())
	require.Contains(t, r.log.String(), "was left, and is deleted")

	// One that is left meanwhile is replaced.
	r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts[left.Name] = &nfttest.Table{Table: left} })
	r.otherType()
	r.log.Reset()
	require.NoError(t, r.Rewrite(load(t, r.Table), nil))
	require.NotContains(t, r.log.String(), noStandIn)
	require.Equal(t, whole, r.kernel.Dump())

	left.Comment = "mine"
	r.kernel.Edit(func(ts map[string]*nfttest.Table) { ts[left.Name] = &nfttest.Table{Table: left} })
	both = r.kernel.Dump()
	require.NoError(t, r.DeleteStandIn())
	r.otherType()
	require.NoError(t, r.Rewrite(load(t, r.Table), nil))
	require.Contains(t, r.log.String(), "there is a table t-stand-in already")
	require.Equal(t, both, r.kernel.Dump())
}

// Sets that exempt what others have are filled before those.
func TestExemptionsFirst(t *testing.T) {
	tb := New(Config{Exempts: func(set string) bool { return set == "x" }})
	require.Equal(t, []nft.Element{{Set: "x"}, {Set: "x", Comment: "2"}, {Set: "a"}, {Set: "z"}},
		tb.exemptionsFirst([]nft.Element{{Set: "a"}, {Set: "x"}, {Set: "z"}, {Set: "x", Comment: "2"}}))
}

func TestLater(t *testing.T) {
	require.Equal(t, uint32(9), later(7, 2))
	require.Equal(t, uint32(0), later(0, 2))
	require.Equal(t, uint32(2), later(1<<32-1, 2), "the kernel has no generation zero")
}

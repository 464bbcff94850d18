// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// openOwner opens an engine that owns its table.
func openOwner(tb testing.TB) (*Engine, *testbed) {
	tb.Helper()
	b := newTestbed()
	b.owning = true
	return b.open(tb), b
}

func (b *testbed) table(tb testing.TB) nft.TableInfo {
	tb.Helper()
	info, err := b.kernel.Conn().Table(DefaultTable)
	require.NoError(tb, err)
	return info
}

// statusOf is what an engine tells of its table.
func statusOf(tb testing.TB, e *Engine) Status {
	tb.Helper()
	st, _ := e.Status(tb.Context()) // of a host that has no sysctls
	require.NotEmpty(tb, st.Table)
	return Status{Present: st.Present, Owned: st.Owned, Repaired: st.Repaired}
}

// apart is a dump without the flags of the table, after which there is an empty line.
func apart(dump string) string {
	return strings.NewReplacer("\tflags owner,persist\n", "", "\"\n\n\tmap tcp4 ", "\"\n\tmap tcp4 ").Replace(dump)
}

func TestTableIsOwned(t *testing.T) {
	e, b := openOwner(t)
	require.Equal(t, Status{Owned: true}, statusOf(t, e), "from the moment it is there")
	publishAll(t, b, e)
	require.Equal(t, nft.TableOwned, b.table(t).Flags)
	before := b.kernel.Dump()
	b.kernel.Flush()
	require.ErrorIs(t, b.kernel.Conn().DeleteTable(DefaultTable), fs.ErrPermission)
	err := b.kernel.Conn().Update(e.core.table.Rules, nft.Change{Add: []nft.Element{foreign("tcp4", "99", "172.30.0.2:80", "")}})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Equal(t, before, b.kernel.Dump())
	publish(t, e, "80->172.30.0.2:80")
	require.Equal(t, Status{Present: true, Owned: true}, statusOf(t, e))
	requireConsistent(t, b, e)
}

// kill closes the socket of the table, as the kernel does for an engine that is killed.
func kill(tb testing.TB, e *Engine) {
	tb.Helper()
	require.NoError(tb, e.core.table.Kernel().Close())
}

// An engine that is killed leaves an orphan, and the next has it, the very same.
func TestOrphanIsClaimed(t *testing.T) {
	e, b := openOwner(t)
	publishAll(t, b, e)
	want, owned, handle := publishedBy(e), b.kernel.Dump(), b.table(t).Handle
	kill(t, e)
	require.Equal(t, nft.TablePersist, b.table(t).Flags)
	next := b.open(t)
	require.Equal(t, want, publishedBy(next))
	require.Equal(t, owned, b.kernel.Dump())
	require.Equal(t, handle, b.table(t).Handle)
	require.Equal(t, Status{Present: true, Owned: true}, statusOf(t, next))
	requireConsistent(t, b, next)
}

// An engine that ends leaves a table without flags, which every nft(8) can list and load, with
// the same contents; the next engine owns it again. One that has lent the table leaves it.
func TestTableIsReleased(t *testing.T) {
	e, b := openOwner(t)
	b.store = &memoryStore{}
	require.NoError(t, e.Close())
	e = b.open(t)
	publishAll(t, b, e)
	lease := nattest.Mapping(t, "82->172.30.0.2:82")
	lease.Expires = b.clock.Now().Add(time.Hour)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, lease)
	require.NoError(t, err)
	b.clock.advance(10 * time.Minute)
	want, err := e.Mappings(t.Context())
	require.NoError(t, err)
	owned := b.kernel.Dump()
	for _, end := range []func(*Engine) error{(*Engine).Close, func(e *Engine) error { return e.Shutdown(t.Context()) }} {
		require.NoError(t, end(e))
		require.Zero(t, b.table(t).Flags)
		require.Equal(t, apart(owned), apart(b.kernel.Dump()))
		require.Equal(t, e.core.stored.markOf(b.table(t).Tag), b.store.record.Table, "it is the one that was stored")
		e = b.open(t)
		have, err := e.Mappings(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, have, "with their ends")
		require.Equal(t, owned, b.kernel.Dump())
	}
	_, err = e.Suspend(t.Context())
	require.NoError(t, err)
	require.NoError(t, e.Close())
	require.Equal(t, nft.TablePersist, b.table(t).Flags)
}

// A release that fails is logged, and the engine ends all the same.
func TestReleaseFails(t *testing.T) {
	for _, call := range []string{"Table", "Elements", "Restore"} {
		e, b := openOwner(t)
		publishAll(t, b, e)
		if call == "Restore" {
			b.kernel.FailNext(call, nil) // that of the stand-in
		}
		b.kernel.FailNext(call, unix.ENOBUFS)
		require.NoError(t, e.Close())
		require.Equal(t, nft.TablePersist, b.table(t).Flags, call)
		require.NotEmpty(t, publishedBy(b.open(t)))
	}
}

// A table changes from one that others can change to one that they cannot, and back, as
// engines want it; what it holds stays, and nothing was repaired.
func TestOwnershipChanges(t *testing.T) {
	b := newTestbed()
	e := b.open(t)
	publishAll(t, b, e)
	_, err := e.CreateNetwork(t.Context(), networkOf(t, "inside", "172.31.0.0/24"))
	require.NoError(t, err)
	want, plain := publishedBy(e), b.kernel.Dump()
	for range 2 {
		for _, owning := range []bool{true, false} {
			require.NoError(t, e.Close())
			b.owning = owning
			e = b.open(t)
			require.Equal(t, want, publishedBy(e))
			require.Equal(t, owning, b.table(t).Flags == nft.TableOwned)
			require.Equal(t, plain, apart(b.kernel.Dump()))
			require.Equal(t, Status{Present: true, Owned: owning}, statusOf(t, e))
			requireConsistent(t, b, e)
		}
	}
}

func networkOf(tb testing.TB, name, prefix string) nat.Network {
	tb.Helper()
	n, err := nat.ParseNetwork(name, prefix, "")
	require.NoError(tb, err)
	return n
}

func TestKernelWithoutOwners(t *testing.T) {
	b := newTestbed()
	b.owning, b.kernel.NoOwners = true, true
	e := b.open(t)
	publishAll(t, b, e)
	require.Zero(t, b.table(t).Flags)
	require.Equal(t, Status{Present: true}, statusOf(t, e))
}

func TestOwnedBySomebodyElse(t *testing.T) {
	e, b := openOwner(t)
	publishAll(t, b, e)
	want := publishedBy(e)
	kill(t, e)
	other := b.kernel.Conn()
	require.NoError(t, other.Claim(DefaultTable, 0))
	_, err := b.tryOpen(Options{NoSysctl: true})
	require.ErrorIs(t, err, nat.ErrOwned)
	reader := b.openWith(t, Options{ReadOnly: true})
	require.Equal(t, want, publishedBy(reader), "it can be read")
	b.owning = false
	_, err = b.tryOpen(Options{NoSysctl: true})
	require.ErrorIs(t, err, nat.ErrOwned)
	require.NoError(t, other.Close())
	b.open(t)
}

// An engine that is open for a moment leaves it to others whose the table is.
func TestTableAsFound(t *testing.T) {
	for name, prepare := range map[string]struct {
		owning bool
		texts  []string
		during nft.TableFlags
	}{
		"none":   {during: 0},
		"plain":  {texts: []string{"80->172.30.0.2:80"}},
		"orphan": {owning: true, texts: []string{"80->172.30.0.2:80"}, during: nft.TableOwned},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbed()
			b.owning = prepare.owning
			if prepare.texts != nil {
				e := b.open(t)
				publish(t, e, prepare.texts...)
				kill(t, e)
			}
			b.owning = true
			e := b.openWith(t, Options{NoSysctl: true, AsFound: true})
			publish(t, e, "81->172.30.0.2:81")
			require.Equal(t, prepare.during, b.table(t).Flags)
			require.Equal(t, Status{Present: true, Owned: prepare.during != 0}, statusOf(t, e))
			requireConsistent(t, b, e)
			require.NoError(t, e.Close())
			require.Zero(t, b.table(t).Flags)
		})
	}
}

// A socket that has failed is replaced with the next change, and the table claimed with
// the new one; also if others were there meanwhile.
func TestSocketFails(t *testing.T) {
	for name, meanwhile := range map[string]func(*testbed){
		"nobody": func(*testbed) {},
		"flush":  func(b *testbed) { b.kernel.Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openOwner(t)
			publishAll(t, b, e)
			before := b.kernel.Dump()
			require.NoError(t, e.core.table.Kernel().Close())
			meanwhile(b)
			publish(t, e, "80->172.30.0.2:80")
			require.Equal(t, nft.TableOwned, b.table(t).Flags)
			_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}})
			require.NoError(t, err)
			require.Equal(t, before, b.kernel.Dump())
			requireConsistent(t, b, e)
		})
	}
}

// The same with the kernel's own.
func TestKernelSocketFails(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	e, err := Open(t.Context(), Options{NetNS: ns.Path(), NoSysctl: true, NoProxies: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	publish(t, e, "80->172.30.0.2:80")
	if !statusOf(t, e).Owned {
		t.Skip("needs a kernel with persistent owned tables (6.9)")
	}
	for _, script := range []string{"list ruleset", "flush ruleset", "flush chain inet nftnat publish"} {
		require.NoError(t, e.core.table.Kernel().Close())
		labtest.ExecInput(t, ns, script, "nft", "-f", "-")
		publish(t, e, "81->172.30.0.2:81")
		info, err := e.core.table.Kernel().Table(DefaultTable)
		require.NoError(t, err)
		require.True(t, info.Mine)
		require.Equal(t, nft.TableOwned, info.Flags)
		drift, err := e.core.table.Kernel().Drift(e.core.table.Rules)
		require.NoError(t, err)
		require.Empty(t, drift)
		require.Equal(t, []string{"80-81->172.30.0.2:80-81"}, publishedBy(e))
		_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "81->172.30.0.2:81")}})
		require.NoError(t, err)
	}
	_, err = Open(t.Context(), Options{NetNS: ns.Path(), NoSysctl: true, NoProxies: true})
	require.ErrorIs(t, err, nat.ErrOwned)
}

// A table that appears after the engine was opened stays as it is found, too.
func TestTableAsFoundLater(t *testing.T) {
	for _, noOwner := range []bool{false, true} {
		b := newTestbed()
		b.owning = !noOwner
		e := b.openWith(t, Options{NoSysctl: true, AsFound: true})
		b.owning = true
		other := b.open(t)
		publish(t, other, "80->172.30.0.2:80")
		kill(t, other)
		handle := b.table(t).Handle

		publish(t, e, "81->172.30.0.2:81")
		require.Equal(t, nft.TableOwned, b.table(t).Flags, "NoOwner is %v", noOwner)
		require.Equal(t, handle, b.table(t).Handle)
		require.NoError(t, e.Close())
		require.Zero(t, b.table(t).Flags)
	}
}

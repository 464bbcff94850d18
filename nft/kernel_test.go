// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

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

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// The tests of this file ask a real kernel for transactions.

func TestUpdate(t *testing.T) {
	c, _ := kernel(t)
	table, es := sample(), ports(10, "web")
	require.NoError(t, c.Replace(table, es, 0))

	to := es[0]
	to.Value = netip.MustParseAddrPort("172.17.0.3:81")
	added := Element{Set: "inside4", Key: PairKey(netip.MustParsePrefix("10.1.0.0/16")), Comment: "on-link"}
	require.NoError(t, c.Update(table, Change{Delete: es[:2], Add: []Element{to, added}}))
	got, _, err := c.Elements(table, "tcp4", "inside4", "tcp6")
	require.NoError(t, err)
	require.Equal(t, sorted(append(slices.Clone(es[2:]), to, added)), sorted(got))

	require.NoError(t, c.Update(table, Change{Delete: got}))
	got, _, err = c.Elements(table, "tcp4", "inside4")
	require.NoError(t, err)
	require.Empty(t, got)

	before, err := c.Generation()
	require.NoError(t, err)
	require.NoError(t, c.Update(table, Change{Generation: 1}))
	after, err := c.Generation()
	require.NoError(t, err)
	require.Equal(t, before, after, "a change of nothing does nothing")
}

// TestInverse: a change and its inverse leave the table as it was, whatever the change.
func TestInverse(t *testing.T) {
	c, _ := kernel(t)
	r, table := newRand(t), sample()
	var names []string
	for _, s := range holdable(table) {
		names = append(names, s.Name)
	}
	es := randomElements(r, table, 200)
	require.NoError(t, c.Replace(table, es[:100], 0))
	for range 20 {
		before, generation, err := c.Elements(table, names...)
		require.NoError(t, err)
		r.Shuffle(len(before), func(i, j int) { before[i], before[j] = before[j], before[i] })
		change := Change{Delete: before[:r.IntN(len(before))], Add: es[100 : 100+r.IntN(100)], Generation: generation}
		if n := len(change.Delete); n != 0 { // one key gets another comment
			renamed := change.Delete[r.IntN(n)]
			renamed.Comment = "renamed"
			change.Add = append(slices.Clone(change.Add), renamed)
		}
		require.NoError(t, c.Update(table, change))
		require.NoError(t, c.Update(table, change.Inverse()))
		after, _, err := c.Elements(table, names...)
		require.NoError(t, err)
		require.Equal(t, sorted(before), sorted(after))
	}
}

// TestRefusedElement: the error names the very element among thousands, and nothing
// of the transaction was done.
func TestRefusedElement(t *testing.T) {
	c, _ := kernel(t)
	table := sample()
	there := ports(60000, "there")
	require.NoError(t, c.Replace(table, there[:100], 0))
	clash := func(i int) []Element {
		es := slices.Clone(there[100:])
		es[i] = there[42]
		return es
	}
	missing := func(i int) []Element {
		es := slices.Clone(there[:100])
		es[i].Key = PortKey(60001)
		return es
	}
	for _, tt := range []struct {
		name string
		ch   Change
		want string
		is   error
	}{
		{"first", Change{Add: clash(0)}, "add element " + there[42].String(), unix.EEXIST},
		{"somewhere", Change{Add: clash(12345)}, "add element " + there[42].String(), unix.EEXIST},
		{"the last but one", Change{Add: clash(59898)}, "add element " + there[42].String(), fs.ErrExist},
		{"the last", Change{Add: clash(59899)}, "add element " + there[42].String(), unix.EEXIST},
		{"twice", Change{Add: append(slices.Clone(there[100:]), there[54321])}, "add element " + there[54321].String(), unix.EEXIST},
		{"behind deletions", Change{Delete: there[:50], Add: append(slices.Clone(there[100:]), there[50])}, "add element " + there[50].String(), unix.EEXIST},
		{"deletion", Change{Delete: missing(77), Add: there[100:]}, "delete element tcp4 { 60001 }", fs.ErrNotExist},
		{"deletion twice", Change{Delete: []Element{there[7], there[8], there[7]}}, "delete element tcp4 { 8 }", unix.ENOENT},
		{"no such set", Change{Add: there[100:102]}, "add element tcp4", unix.ENOENT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := table
			if tt.name == "no such set" {
				in.Name = "elsewhere"
			}
			err := c.Update(in, tt.ch)
			require.ErrorIs(t, err, tt.is)
			var op *OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, tt.want, op.Op+" "+op.Object)
			got, _, err := c.Elements(table, "tcp4")
			require.NoError(t, err)
			require.Equal(t, sorted(there[:100]), sorted(got), "something stayed")
		})
	}
	// So does the table itself, whatever Replace wants instead.
	other := Table{Name: "nftnat", Sets: table.Sets}
	err := c.Replace(other, clash(59898)[59000:], 0)
	require.NoError(t, err)
	require.NoError(t, c.Replace(table, there[:3], 0))
	err = c.Replace(other, append(clash(59898), there[42]), 0)
	require.ErrorIs(t, err, unix.EEXIST)
	drift, err := c.Drift(table)
	require.NoError(t, err)
	require.Empty(t, drift)
	got, _, err := c.Elements(table, "tcp4")
	require.NoError(t, err)
	require.Equal(t, sorted(there[:3]), sorted(got))
}

func TestFullMap(t *testing.T) {
	c, _ := kernel(t)
	table := Table{Name: "t", Sets: []Set{{Name: "tcp4", Key: Type{InetService}, Value: Type{IPv4Addr, InetService}, Size: 3}}}
	es := ports(4, "")
	err := c.Replace(table, es, 0)
	require.ErrorIs(t, err, unix.ENFILE)
	require.ErrorContains(t, err, "add element tcp4 { 4 : 172.17.0.2 . 80 }: ")
	require.NoError(t, c.Replace(table, es[:3], 0))
	require.ErrorIs(t, c.Update(table, Change{Add: es[3:]}), unix.ENFILE)
	require.NoError(t, c.Update(table, Change{Delete: es[:1], Add: es[3:]}), "room is made in the same transaction")
}

// TestOverlappingPairs pins what the kernel answers. Callers that keep pairs
// depend on it.
func TestOverlappingPairs(t *testing.T) {
	c, _ := kernel(t)
	pair := func(p string) []Element {
		return []Element{{Set: "inside4", Key: PairKey(netip.MustParsePrefix(p))}}
	}
	require.NoError(t, c.Replace(sample(), pair("10.1.0.0/16"), 0))
	for _, p := range []string{"10.1.0.0/16", "10.1.1.0/24", "10.1.0.0/15", "10.0.0.0/15"} {
		require.ErrorIs(t, c.Update(sample(), Change{Add: pair(p)}), unix.EEXIST, p)
	}
	require.NoError(t, c.Update(sample(), Change{Add: pair("10.0.0.0/8")}), "one around others passes")
	require.NoError(t, c.Update(sample(), Change{Delete: pair("10.1.1.0/24")}), "the one that holds it is deleted")
	got, _, err := c.Elements(sample(), "inside4")
	require.NoError(t, err)
	require.Equal(t, pair("10.0.0.0/8"), got)
}

// TestOverlappingSegments: those of different links may overlap, and each is deleted by its own.
func TestOverlappingSegments(t *testing.T) {
	c, _ := kernel(t)
	segment := func(link, p string) Element {
		return Element{Set: "segments4", Key: SegmentKey(link, netip.MustParsePrefix(p)), Comment: link + " " + p}
	}
	es := []Element{segment("br0", "10.1.0.0/16"), segment("br1", "10.1.0.0/16"), segment("br10", "10.0.0.0/8"), segment("b", "10.1.1.1/32")}
	require.NoError(t, c.Replace(sample(), es, 0))
	for _, e := range []Element{es[0], segment("br0", "10.1.1.0/24"), segment("br1", "10.0.0.0/15")} {
		require.ErrorIs(t, c.Update(sample(), Change{Add: []Element{e}}), unix.EEXIST, e)
	}
	// A wider one takes the place of one within, and the other way round, in one transaction.
	wide := segment("br0", "10.0.0.0/8")
	require.NoError(t, c.Update(sample(), Change{Delete: es[:1], Add: []Element{wide}}))
	require.NoError(t, c.Update(sample(), Change{Delete: []Element{wide}, Add: es[:1]}))
	got, _, err := c.Elements(sample(), "segments4")
	require.NoError(t, err)
	require.ElementsMatch(t, es, got)
	for i := range es {
		require.NoError(t, c.Update(sample(), Change{Delete: es[i : i+1]}))
		got, _, err = c.Elements(sample(), "segments4")
		require.NoError(t, err)
		require.ElementsMatch(t, es[i+1:], got)
	}
}

func TestGeneration(t *testing.T) {
	c, ns := kernel(t)
	other := dialIn(t, ns)
	table := sample()
	require.NoError(t, c.Replace(table, ports(2, ""), 0))
	_, generation, err := c.Elements(table, "tcp4")
	require.NoError(t, err)
	now, err := other.Generation()
	require.NoError(t, err)
	require.Equal(t, generation, now)

	require.NoError(t, other.Replace(Table{Name: "other"}, nil, 0), "any ruleset of the namespace counts")
	for _, err := range []error{
		c.Update(table, Change{Delete: ports(1, ""), Generation: generation}),
		c.Update(table, Change{Delete: ports(9, ""), Generation: generation}), // refused before it is looked at
		c.Replace(table, nil, generation),
	} {
		require.Equal(t, ErrStale, err)
	}
	got, generation, err := c.Elements(table, "tcp4")
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.NoError(t, c.Update(table, Change{Delete: got[:1], Generation: generation}))
	require.Equal(t, ErrStale, c.Update(table, Change{Delete: got[1:], Generation: generation}))
	require.NoError(t, c.Replace(table, nil, generation+1))
}

func TestTable(t *testing.T) {
	c, _ := kernel(t)
	_, err := c.Table("nftnat")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "list table inet nftnat: no such file or directory")
	require.NoError(t, c.Replace(sample(), nil, 0))
	info, err := c.Table("nftnat")
	require.NoError(t, err)
	require.Equal(t, "a sample", info.Comment)
	require.Zero(t, info.Flags)
	require.NotZero(t, info.Handle)
	require.NoError(t, c.Replace(sample(), nil, 0))
	again, err := c.Table("nftnat")
	require.NoError(t, err)
	require.NotEqual(t, info.Handle, again.Handle, "it is another table")
}

func TestDeleteTable(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), ports(1000, ""), 0))
	require.NoError(t, c.Replace(Table{Name: "other"}, nil, 0))
	require.NoError(t, c.DeleteTable("nftnat"))
	require.Equal(t, "table inet other {\n}\n", labtest.Exec(t, ns, "nft", "list", "ruleset"))
	err := c.DeleteTable("nftnat")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "delete table inet nftnat: no such file or directory")
	_, err = c.Drift(sample())
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, _, err = c.Elements(sample(), "tcp4")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestTwoConns(t *testing.T) {
	c, ns := kernel(t)
	other := dialIn(t, ns)
	table := sample()
	require.NoError(t, c.Replace(table, nil, 0))
	require.NoError(t, other.Update(table, Change{Add: ports(5, "other")}))
	require.ErrorIs(t, c.Update(table, Change{Add: ports(1, "")}), unix.EEXIST)
	require.NoError(t, c.Update(table, Change{Delete: ports(5, "")}))
	require.ErrorIs(t, other.Update(table, Change{Delete: ports(1, "")}), unix.ENOENT)
	// One Conn serves many goroutines.
	errs := make(chan error)
	for i := range 8 {
		go updateAndRead(c, ports(100, "")[i*10:i*10+10], errs)
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
}

// updateAndRead adds the elements, finds them among those of others, and deletes them.
func updateAndRead(c *Conn, es []Element, errs chan<- error) {
	for range 10 {
		if err := c.Update(sample(), Change{Add: es}); err != nil {
			errs <- err
			return
		}
		got, _, err := c.Elements(sample(), "tcp4")
		if errors.Is(err, ErrInterrupted) {
			err = nil
		} else if err == nil && !slices.Contains(got, es[0]) {
			err = errors.New("what was added is not there")
		}
		if err == nil {
			err = c.Update(sample(), Change{Delete: es})
		}
		if err != nil {
			errs <- err
			return
		}
	}
	errs <- nil
}

// TestWithoutPrivilege gives the capability up on a thread that ends with the test.
func TestWithoutPrivilege(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), nil, 0))
	err := ns.Do(func() error {
		if err := dropNetAdmin(); err != nil {
			return err
		}
		c, err := Dial(nil)
		if err != nil {
			return err
		}
		defer func() { require.NoError(t, c.Close()) }()
		require.ErrorIs(t, c.Replace(sample(), nil, 0), fs.ErrPermission)
		require.ErrorIs(t, c.Update(sample(), Change{Add: ports(1, "")}), fs.ErrPermission)
		require.ErrorIs(t, c.DeleteTable("nftnat"), fs.ErrPermission)
		_, err = c.Table("nftnat")
		require.ErrorIs(t, err, fs.ErrPermission)
		_, _, err = c.Elements(sample(), "tcp4")
		require.ErrorIs(t, err, fs.ErrPermission)
		_, err = c.Drift(sample())
		require.ErrorIs(t, err, fs.ErrPermission)
		return nil
	})
	require.NoError(t, err)
}

// dropNetAdmin takes CAP_NET_ADMIN from the calling thread.
func dropNetAdmin() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	data[0].Permitted &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&header, &data[0])
}

// smallestReceiveBuffer gives the socket the least that the kernel lets it have.
func smallestReceiveBuffer(t *testing.T, c *Conn) {
	t.Helper()
	require.NoError(t, c.socket.(*nlwire.Socket).Control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	}))
}

// clog fills the receive buffer with answers that nobody reads.
func clog(t *testing.T, c *Conn) {
	t.Helper()
	smallestReceiveBuffer(t, c)
	for range 50 {
		_, err := c.sendRequest(unix.NFT_MSG_GETGEN, 0)
		require.NoError(t, err)
	}
}

// TestReceiveBufferFull provokes ENOBUFS: the kernel drops the answer to a transaction
// that it has committed, or refused.
func TestReceiveBufferFull(t *testing.T) {
	table := sample()
	t.Run("committed", func(t *testing.T) {
		c, _ := kernel(t)
		require.NoError(t, c.Replace(table, nil, 0))
		clog(t, c)
		require.NoError(t, c.Update(table, Change{Add: ports(10, "")}))
		got, _, err := c.Elements(table, "tcp4")
		require.NoError(t, err)
		require.Len(t, got, 10)
		clog(t, c)
		require.NoError(t, c.DeleteTable("nftnat"))
	})
	t.Run("refused", func(t *testing.T) {
		c, _ := kernel(t)
		require.NoError(t, c.Replace(table, ports(1, "there"), 0))
		clog(t, c)
		err := c.Update(table, Change{Add: ports(10, "")})
		require.ErrorIs(t, err, errNoAnswer)
		require.ErrorContains(t, err, "it was not applied")
		clog(t, c)
		require.ErrorIs(t, c.Update(table, Change{Add: ports(10, ""), Generation: 1}), errNoAnswer)
	})
	// A thousand refusals do not fit either, but the first does.
	t.Run("many refusals", func(t *testing.T) {
		c, _ := kernel(t)
		require.NoError(t, c.Replace(table, nil, 0))
		smallestReceiveBuffer(t, c)
		var es []Element
		for i := range 1000 {
			es = append(es, Element{Set: []string{"tcp4", "tcp6"}[i%2], Key: PortKey(uint16(i + 1))})
		}
		err := c.Update(table, Change{Delete: es})
		require.EqualError(t, err, "delete element tcp4 { 1 }: no such file or directory")
	})
}

// TestForgedAnswer: another process can send to a netlink socket, and is not heard.
func TestForgedAnswer(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), nil, 0))
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer func() { require.NoError(t, unix.Close(fd)) }()
		to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: c.socket.(*nlwire.Socket).Port()}
		forged := errorMessage(c.seq+2, unix.EEXIST, unix.NLM_F_CAPPED)
		return unix.Sendto(fd, forged, 0, to)
	})
	require.NoError(t, err)
	require.NoError(t, c.Update(sample(), Change{Add: ports(1, "")}))
}

// TestLongNamesAndComments are the longest that are let pass.
func TestLongNamesAndComments(t *testing.T) {
	c, ns := kernel(t)
	long := func(first string, n int) string { return first + strings.Repeat("x", n-1) }
	table := Table{
		Name: long("t", maxName), Comment: long("c", maxComment),
		Sets:   []Set{{Name: long("m", maxName), Key: Type{InetService}, Value: Type{IPv4Addr, InetService}, Timeout: true}},
		Chains: []Chain{{Name: long("c", maxName), Comment: long("c", maxComment), Rules: []Rule{{DNATv4(long("m", maxName), TCPDport)}}}},
	}
	e := Element{
		Set: long("m", maxName), Key: PortKey(1), Value: netip.MustParseAddrPort("192.0.2.1:1"),
		Comment: long("c", maxComment), Timeout: 290 * 365 * 24 * time.Hour,
	}
	require.NoError(t, c.Replace(table, []Element{e}, 0))
	got, _, err := c.Elements(table, e.Set)
	require.NoError(t, err)
	requireSame(t, []Element{e}, got)
	require.NoError(t, c.Update(table, Change{Delete: got}))
	require.Equal(t, table.String(), list(t, ns, table.Name))
}

// TestDialCaller dials into the namespace of the calling thread.
func TestDialCaller(t *testing.T) {
	_, ns := kernel(t)
	var c *Conn
	require.NoError(t, ns.Do(func() (err error) {
		c, err = Dial(nil)
		return err
	}))
	require.NoError(t, c.Replace(Table{Name: "here"}, nil, 0))
	require.Equal(t, "table inet here {\n}\n", labtest.Exec(t, ns, "nft", "list", "ruleset"))
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err := c.Generation()
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = Dial(&Config{NetNS: 1 << 20})
	require.ErrorContains(t, err, "open netlink socket")
}

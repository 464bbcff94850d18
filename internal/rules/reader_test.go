// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"context"
	"encoding/binary"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// open opens a reader of a namespace with these rules.
func open(t *testing.T, rules string) (*Reader, *lab.NS) {
	t.Helper()
	ns := labtest.NewNS(t, "rules")
	labtest.ExecInput(t, ns, rules, "nft", "-f", "-")
	return openNS(t, ns), ns
}

func openNS(t *testing.T, ns *lab.NS) *Reader {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	r, err := Open(int(f.Fd()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestRead(t *testing.T) {
	r, ns := open(t, `
table ip a { comment "first"; set s { type ipv4_addr . inet_service; flags interval; }; chain c { }; }
table inet a { flags dormant; chain f { type filter hook forward priority filter - 5; policy drop; comment "x"; jump g comment "why"; }; chain g { tcp dport { 1, 2 } accept; }; }
table netdev d { chain in { type filter hook ingress devices = { lo } priority 7; }; }
table arp b { chain c { type filter hook input priority 0; }; }
table bridge b { chain c { type filter hook prerouting priority dstnat; }; }
table ip6 b { }
`)
	rs, err := r.Read(t.Context())
	require.NoError(t, err)
	require.Len(t, rs.Tables, 6)
	names, last := []string{}, uint64(0)
	for _, table := range rs.Tables {
		names = append(names, table.Family.String()+" "+table.Name)
		require.Greater(t, table.Handle, last)
		last = table.Handle
	}
	require.Equal(t, []string{"ip a", "inet a", "netdev d", "arp b", "bridge b", "ip6 b"}, names)
	require.Equal(t, "first", rs.Tables[0].Comment)
	require.Equal(t, []int{4, 2}, rs.Tables[0].Sets["s"].FieldLens)
	require.True(t, rs.Tables[1].Dormant())
	f := rs.Tables[1].Chain("f")
	require.Equal(t, Base{Type: "filter", Hook: unix.NF_INET_FORWARD, Priority: -5}, *f.Base)
	require.Equal(t, "x", f.Comment)
	require.Equal(t, []string{"lo"}, rs.Tables[2].Chains[0].Base.Devices)
	require.Nil(t, rs.Tables[0].Chain("none"))
	rules, err := r.Rules(f)
	require.NoError(t, err)
	require.Len(t, rules, 1)
	require.Equal(t, "why", rules[0].Comment)
	require.Equal(t, []Expr{Immediate{Decision: &Decision{Code: unix.NFT_JUMP, Chain: "g"}}}, rules[0].Exprs)
	changed, err := r.Changed()
	require.NoError(t, err)
	require.False(t, changed)
	labtest.Exec(t, ns, "nft", "flush", "chain", "inet", "a", "g")
	changed, err = r.Changed()
	require.NoError(t, err)
	require.True(t, changed)
	again, err := r.Rules(f)
	require.NoError(t, err)
	require.Equal(t, rules, again)
}

func TestReadWithoutPrivilege(t *testing.T) {
	ns := labtest.NewNS(t, "rules")
	r := openNS(t, ns)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread goes with its privileges
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		_, err := r.Read(context.Background())
		done <- err
	}()
	err := <-done
	require.ErrorIs(t, err, fs.ErrPermission)
	require.EqualError(t, err, "read generation of nftables: operation not permitted")
}

func TestReadEnds(t *testing.T) {
	r, _ := open(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Read(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

// While others change tables all the time, what is read is of one moment.
func TestReadUnderChange(t *testing.T) {
	r, ns := open(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, "nsenter", "--net="+ns.Path(), "nft", "add table ip x; add chain ip x c; add set ip x s { type ipv4_addr; }; add rule ip x c ip saddr @s; delete table ip x")
			_ = cmd.Run()
			cmd = exec.CommandContext(ctx, "nsenter", "--net="+ns.Path(), "nft", "add table ip y; add chain ip y c; add set ip y s { type ipv4_addr; }; add rule ip y c ip saddr @s")
			_ = cmd.Run()
		}
	}()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		rs, err := r.Read(t.Context())
		require.NoError(t, err)
		for _, table := range rs.Tables {
			require.Len(t, table.Chains, 1)
			require.Len(t, table.Sets, 1)
		}
	}
	cancel()
	<-done
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func TestGet(t *testing.T) {
	r, _ := open(t, `
table inet t {
	limit slow { rate 1/hour; }
	limit fast { rate 100/second; }
	quota q { over 10 mbytes used 1 mbytes; }
	counter n { packets 3 bytes 180; }
	ct helper ftp { type "ftp" protocol tcp; }
	synproxy y { mss 1460; wscale 7; timestamp sack-perm; }
	ct timeout o { protocol tcp; l3proto ip; policy = { established: 100, close: 4 }; }
	ct expectation e { protocol tcp; dport 9876; timeout 2m; size 12; l3proto ip; }
	set hash { type inet_service; elements = { 80, 443 comment "tls" }; }
	set range { type inet_service; flags interval; elements = { 80-90, 91, 100-110, 60000-65535 }; }
	set low { type inet_service; flags interval; elements = { 0-10 }; }
	set net { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 }; }
	set net6 { type ipv6_addr; flags interval; elements = { 2001:db8::/32, fd00::1-fd00::9 }; }
	set pair { type ipv4_addr . inet_service; elements = { 192.0.2.1 . 80 }; }
	set pairs { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 80-90, 198.51.100.1 . 1 }; }
	set names { type ifname; elements = { "eth0" }; }
	set wild { type ifname; flags interval; elements = { "eth*", "br0" }; }
	set timed { type inet_service; flags timeout; elements = { 80 timeout 1h }; }
	set limited { type inet_service; limit rate 5/second; elements = { 80 limit rate 7/minute burst 3 packets }; }
	set counted { type inet_service; counter; elements = { 80 }; }
	map verdicts { type inet_service : verdict; elements = { 80 : accept, 81 : jump c, * : drop }; }
	map spans { type inet_service : verdict; flags interval; elements = { 80-90 : accept, * : goto c }; }
	map addrs { type inet_service : ipv4_addr; elements = { 80 : 172.30.0.2 }; }
	map places { type ipv4_addr . inet_service : ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/24 . 80 : 172.30.0.2 . 8080, * : 172.30.0.3 . 1 }; }
	map objects { type ipv4_addr : limit; elements = { 192.0.2.1 : "slow" }; }
	chain c { tcp dport { 22, 1000-2000 } accept; }
}`)
	rs, err := r.Read(t.Context())
	require.NoError(t, err)
	table := rs.Tables[0]
	addr := []byte{192, 0, 2, 1}
	name := func(s string) []byte { return append([]byte(s), make([]byte, 16-len(s))...) }
	pair := func(a []byte, port uint16) []byte { return append(append(append([]byte{}, a...), be16(port)...), 0, 0) }
	six := func(last byte, first ...byte) []byte {
		return append(append(first, make([]byte, 15-len(first))...), last)
	}
	anonymous := ""
	for s := range table.Sets {
		if table.Sets[s].Anonymous() {
			anonymous = s
		}
	}
	for _, tt := range []struct {
		set     string
		key     []byte
		found   bool
		also    func(e Element) bool
		because string
	}{
		{set: "hash", key: be16(80), found: true},
		{set: "hash", key: be16(443), found: true, also: func(e Element) bool { return e.Comment == "tls" }},
		{set: "hash", key: be16(81)},
		{set: "range", key: be16(79)},
		{set: "range", key: be16(80), found: true},
		{set: "range", key: be16(85), found: true, also: func(e Element) bool { return !e.IntervalEnd }},
		{set: "range", key: be16(90), found: true},
		{set: "range", key: be16(91), found: true},
		{set: "range", key: be16(92)},
		{set: "range", key: be16(99)},
		{set: "range", key: be16(100), found: true},
		{set: "range", key: be16(111)},
		{set: "range", key: be16(59999)},
		{set: "range", key: be16(60000), found: true},
		{set: "range", key: be16(65535), found: true},
		{set: "range", key: be16(0)},
		{set: "low", key: be16(0), found: true},
		{set: "low", key: be16(10), found: true},
		{set: "low", key: be16(11)},
		{set: "net", key: []byte{192, 0, 2, 0}, found: true},
		{set: "net", key: []byte{192, 0, 2, 255}, found: true},
		{set: "net", key: []byte{192, 0, 3, 0}},
		{set: "net", key: []byte{198, 51, 100, 7}, found: true},
		{set: "net", key: []byte{198, 51, 100, 8}},
		{set: "net", key: []byte{255, 255, 255, 255}},
		{set: "net6", key: six(1, 0x20, 1, 0xd, 0xb8, 9), found: true},
		{set: "net6", key: six(1, 0x20, 1, 0xd, 0xb9)},
		{set: "net6", key: six(5, 0xfd), found: true},
		{set: "net6", key: six(10, 0xfd)},
		{set: "pair", key: pair(addr, 80), found: true},
		{set: "pair", key: pair(addr, 81)},
		{set: "pairs", key: pair(addr, 80), found: true},
		{set: "pairs", key: pair(addr, 85), found: true},
		{set: "pairs", key: pair(addr, 91)},
		{set: "pairs", key: pair([]byte{192, 0, 3, 1}, 80)},
		{set: "pairs", key: pair([]byte{198, 51, 100, 1}, 1), found: true},
		{set: "names", key: name("eth0"), found: true},
		{set: "names", key: name("eth1")},
		{set: "wild", key: name("eth1"), found: true},
		{set: "wild", key: name("eth"), found: true},
		{set: "wild", key: name("br0"), found: true},
		{set: "wild", key: name("br1")},
		{set: "wild", key: name("et")},
		{set: "timed", key: be16(80), found: true, also: func(e Element) bool {
			return e.Timeout == 3600_000 && e.Expires > 0 && e.Expires <= e.Timeout
		}},
		{set: "limited", key: be16(80), found: true, also: func(e Element) bool {
			return e.Conditional && e.Exprs[0].(Limit).Rate == 7
		}},
		{set: "counted", key: be16(80), found: true, also: func(e Element) bool { return !e.Conditional && len(e.Exprs) == 1 }},
		{set: "verdicts", key: be16(80), found: true, also: func(e Element) bool { return e.Decision.Code == 1 }},
		{set: "verdicts", key: be16(81), found: true, also: func(e Element) bool {
			return *e.Decision == Decision{unix.NFT_JUMP, "c"}
		}},
		{set: "verdicts", key: be16(82), found: true, also: func(e Element) bool { return e.Decision.Code == 0 && e.CatchAll }},
		{set: "spans", key: be16(85), found: true, also: func(e Element) bool { return e.Decision.Code == 1 }},
		{set: "spans", key: be16(91), found: true, also: func(e Element) bool { return e.Decision.Code == unix.NFT_GOTO }},
		{set: "addrs", key: be16(80), found: true, also: func(e Element) bool { return string(e.Data) == "\xac\x1e\x00\x02" }},
		{set: "addrs", key: be16(81)},
		{set: "places", key: pair(addr, 80), found: true, also: func(e Element) bool {
			return string(e.Data) == "\xac\x1e\x00\x02\x1f\x90\x00\x00"
		}},
		{set: "places", key: pair(addr, 81), found: true, also: func(e Element) bool { return e.CatchAll && e.Data[7-4] == 3 }},
		{set: "objects", key: addr, found: true, also: func(e Element) bool { return e.Object == "slow" }},
		{set: anonymous, key: be16(22), found: true},
		{set: anonymous, key: be16(1500), found: true},
		{set: anonymous, key: be16(2001)},
	} {
		e, ok, err := r.Get(table.Sets[tt.set], tt.key)
		require.NoError(t, err, tt.set)
		require.Equal(t, tt.found, ok, "%s %x", tt.set, tt.key)
		if tt.also != nil {
			require.True(t, tt.also(e), "%s %x %+v", tt.set, tt.key, e)
		}
	}
	_, _, err = r.Get(table.Sets["hash"], []byte{1})
	require.Error(t, err)

	elements, more, err := r.Elements(table.Sets["range"], 3)
	require.NoError(t, err)
	require.True(t, more)
	require.Len(t, elements, 3)
	elements, more, err = r.Elements(table.Sets["range"], 100)
	require.NoError(t, err)
	require.False(t, more)
	require.Greater(t, len(elements), 6)

	for _, tt := range []struct {
		typ  uint32
		name string
		want Expr
	}{
		{objLimit, "slow", Limit{Rate: 1, Unit: 3600, Burst: 5}},
		{objQuota, "q", Quota{Bytes: 10 << 20, Used: 1 << 20, Over: true}},
		{objCounter, "n", Counter{Packets: 3, Bytes: 180}},
		{objCTHelper, "ftp", CTHelper{Name: "ftp", L3Proto: unix.NFPROTO_INET, L4Proto: unix.IPPROTO_TCP}},
		{objSynproxy, "y", Synproxy{MSS: 1460, Wscale: 7, Flags: 15}},
		{objCTExpect, "e", CTExpectation{L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_TCP, Port: 9876, Timeout: 120_000, Size: 12}},
	} {
		o, err := r.Object(table, tt.typ, tt.name)
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.want, o.Value)
	}
	_, err = r.Object(table, objLimit, "none")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

func connection(client, server string, state TCPState) Connection {
	return Connection{netip.MustParseAddrPort(client), netip.MustParseAddrPort(server), state}
}

// Entries are created beside those that there are, which stay as they are, and no rule of NAT sees the next packet.
func TestCreate(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	translated := plain(unix.IPPROTO_TCP, "10.0.0.3:4000", "192.0.2.1:80")
	translated.ReplySrc = netip.MustParseAddrPort("172.17.0.2:80")
	fill(t, ns, 1, func(int) Flow { return translated })
	c := dial(t, ns)
	all := []Connection{
		connection("10.0.0.1:4000", "192.0.2.1:80", TCPEstablished),
		connection("10.0.0.2:4000", "192.0.2.1:80", TCPSynRecv),
		connection("10.0.0.3:4000", "192.0.2.1:80", TCPEstablished),                      // there is one
		connection("192.0.2.1:80", "10.0.0.1:4000", TCPEstablished),                      // the same, seen from the other end
		connection("[2001:db8::9]:4000", "[2001:db8::1]:80", TCPFinWait),                 // IPv6
		connection("[fe80::9]:4000", "[fe80::1]:80", TCPEstablished),                     // link-local
		connection("[2001:db8::9]:4000", "[2001:db8::1]:80", TCPEstablished),             // there is one
		connection("255.255.255.255:65535", "255.255.255.254:65535", TCPEstablished),     // anything
		connection("[2001:db8::ff]:65535", "[2001:db8:ffff::ffff]:1025", TCPEstablished), // anything
	}
	n, err := c.Create(all)
	require.NoError(t, err)
	require.Equal(t, 6, n)
	n, err = c.Create(all)
	require.NoError(t, err)
	require.Zero(t, n)
	list := ""
	for _, family := range []string{"ipv4", "ipv6"} {
		list += labtest.Exec(t, ns, "conntrack", "-L", "-f", family)
	}
	for _, want := range []string{
		`tcp +6 (431999|432000) ESTABLISHED src=10\.0\.0\.1 dst=192\.0\.2\.1 sport=4000 dport=80 src=192\.0\.2\.1 dst=10\.0\.0\.1 sport=80 dport=4000 \[ASSURED\] `,
		`tcp +6 (59|60) SYN_RECV src=10\.0\.0\.2 dst=192\.0\.2\.1 .*\[ASSURED\] `,
		`tcp +6 \d+ \S+ src=10\.0\.0\.3 dst=192\.0\.2\.1 sport=4000 dport=80 src=172\.17\.0\.2 `,
		`tcp +6 (119|120) FIN_WAIT src=2001:db8::9 dst=2001:db8::1 .*\[ASSURED\] `,
	} {
		require.Regexp(t, `(?m)^`+want, list)
	}
	require.Equal(t, 7, strings.Count(list, "tcp "))
	require.NotContains(t, list, "UNREPLIED] src=10.0.0.1")
	require.NoError(t, c.Each(Filter{Proto: unix.IPPROTO_TCP}, func(f Flow) error {
		if f.Src.Addr() != translated.Src.Addr() {
			require.Equal(t, StatusConfirmed|StatusSeenReply|StatusAssured, f.Status, f)
		}
		return nil
	}))
}

// More than a chunk, of which some are there.
func TestCreateMany(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	c := dial(t, ns)
	all := make([]Connection, 3*chunk+1)
	for i := range all {
		all[i] = connection(fmt.Sprintf("10.0.%d.%d:4000", i/250, i%250), "192.0.2.1:80", TCPEstablished)
	}
	n, err := c.Create(all[:5])
	require.NoError(t, err)
	require.Equal(t, 5, n)
	n, err = c.Create(all)
	require.NoError(t, err)
	require.Equal(t, len(all)-5, n)
	n, _, err = c.Count()
	require.NoError(t, err)
	require.Equal(t, len(all), n)
}

func TestCreateInvalid(t *testing.T) {
	c, _, writer := fakeConn(t, 0)
	for _, of := range []Connection{
		{},
		{Client: netip.MustParseAddrPort("10.0.0.1:1"), State: TCPEstablished},
		connection("10.0.0.1:1", "[2001:db8::1]:1", TCPEstablished),
		connection("[::ffff:10.0.0.1]:1", "[2001:db8::1]:1", TCPEstablished),
		connection("[fe80::1%lo]:1", "[fe80::2]:1", TCPEstablished),
		connection("10.0.0.1:1", "10.0.0.2:1", 0),
		connection("10.0.0.1:1", "10.0.0.2:1", 1),
	} {
		_, err := c.Create([]Connection{connection("10.0.0.9:1", "10.0.0.2:1", TCPEstablished), of})
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	_, err := c.Create([]Connection{connection("[fe80::1%lo]:1", "[fe80::2]:1", TCPEstablished)})
	require.EqualError(t, err, "create flows tcp [fe80::1%lo]:1->[fe80::2]:1 ESTABLISHED: address with a zone: invalid argument")
	require.Empty(t, writer.requests)
	n, err := c.Create(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, writer.requests)
}

// The table is full for some; answers are lost.
func TestCreateFails(t *testing.T) {
	all := make([]Connection, chunk+2)
	for i := range all {
		all[i] = connection(fmt.Sprintf("10.0.%d.%d:4000", i/250, i%250), "192.0.2.1:80", TCPEstablished)
	}
	full := 0
	answer := func(writer *fakeKernel, m nlwire.Message, errno unix.Errno) {
		if errno != 0 || m.Flags&unix.NLM_F_ACK != 0 {
			writer.queue = append(writer.queue, ack(m.Seq, errno))
		}
	}
	c, _, writer := fakeConn(t, 0)
	writer.hook = func(m nlwire.Message) bool {
		require.Equal(t, uint16(msgNew), m.Type)
		require.Equal(t, uint16(unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL), m.Flags&^unix.NLM_F_ACK)
		errno := unix.Errno(0)
		if writer.count(msgNew)%10 == 0 {
			errno, full = unix.ENOMEM, full+1
		}
		answer(writer, m, errno)
		return true
	}
	n, err := c.Create(all)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.EqualError(t, err, "create flows: cannot allocate memory")
	require.Equal(t, len(all)-full, n, "the others are there")

	synctest.Test(t, func(t *testing.T) {
		c, _, writer := fakeConn(t, 0)
		made := map[uint32]bool{}
		writer.hook = func(m nlwire.Message) bool {
			var e entry
			ok, err := decodeEntry(nlwire.AppendAttr(m.Payload, ctaID, 0, 0, 0, 0), &e)
			require.NoError(t, err)
			require.True(t, ok)
			key := binary.BigEndian.Uint32(e.origTuple.src.Addr().AsSlice())
			errno := unix.Errno(0)
			if made[key] {
				errno = unix.EEXIST
			}
			made[key] = true
			if writer.count(msgNew) <= chunk {
				writer.queue = []any{error(unix.ENOBUFS)}
				return true
			}
			answer(writer, m, errno)
			return true
		}
		_, err := c.Create(all)
		require.NoError(t, err)
		require.Len(t, made, len(all))
	})
}

func TestTCPStateString(t *testing.T) {
	require.Equal(t, "SYN_RECV ESTABLISHED FIN_WAIT 9", fmt.Sprint(TCPSynRecv, " ", TCPEstablished, " ", TCPFinWait, " ", TCPState(9)))
}

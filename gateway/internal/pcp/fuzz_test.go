// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/gateway/internal/lease"
)

// seeds adds the requests of the exchanges.
func seeds(f *testing.F) {
	f.Helper()
	for _, file := range []string{"testdata/nat-pmp.txt", "testdata/pcp.txt"} {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		for line := range strings.SplitSeq(string(text), "\n") {
			rest, ok := strings.CutPrefix(line, ">")
			if !ok {
				continue
			}
			rest = strings.NewReplacer(
				"{client}", hex.EncodeToString(appendAddress(nil, fuzzClient)), "{wan}", "00000000000000000000ffffc6336401",
				"{any}", "00000000000000000000ffff00000000", "{nonce}", "0102030405060708090a0b0c",
				"{other}", "cccccccccccccccccccccccc", "{zero}", "000000000000000000000000", " ", "",
			).Replace(rest)
			if b, err := hex.DecodeString(rest); err == nil {
				f.Add(b, false)
			}
		}
	}
	f.Add([]byte{pmpVersion, 0}, true)
	f.Add([]byte{pcpVersion, 1}, true)
}

var fuzzClient = netip.MustParseAddr("192.168.1.10")

// FuzzDatagram passes any datagram through a server, twice, with leases there. What it answers has the form of
// an answer, is small, and an error has changed nothing.
func FuzzDatagram(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, q []byte, six bool) {
		if len(q) > maxMessage+4 {
			q = q[:maxMessage+4] // what a server reads
		}
		client := fuzzClient
		if six {
			client = netip.MustParseAddr("fe80::10%lan0")
		}
		leases := newFake()
		leases.clean = true
		leases.all = append(leases.all,
			lease.Lease{Kind: lease.PCP, Key: "0102030405060708090a0b0c", Client: fuzzClient, Proto: 17, Internal: 5000, External: 5000, Expires: leases.now.Add(1000e9)},
			lease.Lease{Kind: lease.PMP, Client: fuzzClient, Proto: 6, Internal: 5000, External: 5000, Expires: leases.now.Add(1000e9)},
			lease.Lease{Key: "by hand", Client: fuzzClient, Proto: 17, Internal: 5001, External: 7000},
		)
		s := leases.server()
		for range 2 {
			asked := bytes.Clone(q)
			before := leases.String()
			answer := s.Answer(t.Context(), nil, q, client)
			assert.True(t, bytes.Equal(asked, q), "the request is left as it is")
			if len(answer) == 0 {
				assert.Equal(t, before, leases.String())
				continue
			}
			assertSmall(t, q, answer)
			assertAnswer(t, q, answer, six)
			if failed(answer) && !endsAll(q) {
				assert.Equal(t, before, leases.String(), "an error has changed something")
			}
		}
	})
}

// assertAnswer checks the form of an answer.
func assertAnswer(t *testing.T, q, answer []byte, six bool) {
	t.Helper()
	require.GreaterOrEqual(t, len(answer), pmpHeaderLen)
	assert.Zero(t, q[1]&response, "an answer was answered")
	assert.Equal(t, q[1]|response, answer[1], "opcode")
	switch answer[0] {
	case pmpVersion:
		assert.Equal(t, byte(pmpVersion), q[0])
		assert.False(t, six)
		assert.LessOrEqual(t, binary.BigEndian.Uint16(answer[2:]), uint16(pmpUnsuppOpcode))
		assert.Equal(t, uint32(100), binary.BigEndian.Uint32(answer[4:]), "epoch")
	case pcpVersion:
		assert.Zero(t, len(answer)%4)
		assert.GreaterOrEqual(t, len(answer), headerLen)
		assert.LessOrEqual(t, answer[atResult], byte(excessiveRemotePeers))
		assert.Equal(t, uint32(100), binary.BigEndian.Uint32(answer[atEpoch:]), "epoch")
		if answer[atResult] == byte(success) && answer[1] == opMap|response {
			assert.True(t, wellFormed(answer[headerLen+mapLen:]))
		}
	default:
		assert.Fail(t, "a version that is not spoken")
	}
}

// endsAll is whether a request ends all mappings by NAT-PMP, of which an error says that some are left.
func endsAll(q []byte) bool {
	return q[0] == pmpVersion && len(q) == pmpMapLen && binary.BigEndian.Uint16(q[pmpInternal:]) == 0
}

// failed is whether an answer is an error.
func failed(answer []byte) bool {
	if answer[0] == pmpVersion {
		return binary.BigEndian.Uint16(answer[2:]) != 0
	}
	return answer[atResult] != 0
}

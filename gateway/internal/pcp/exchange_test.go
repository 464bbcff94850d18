// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// An exchange begins with "## SECTION what it shows", has leases of its own, and then lines of
//
//	client ADDR          the requests after this are from there; first 192.168.1.10
//	wan ADDR | none      the address of the WAN; first 198.51.100.1
//	taken PROTO PORT     of the WAN, by another client
//	operator PROTO PORT->ADDR:PORT   a mapping that is no lease
//	fail WHAT            the next change fails
//	sleep SECONDS
//	> HEX                a request
//	< HEX | nothing      the answer to it
//	= LEASE | nothing    a lease that there is then, of which there is no other
//
// In requests and answers are {client} and {wan}, addresses of 16 bytes; {any}, that of no IPv4 address; {nonce} and {other}, two
// nonces; {epoch}, 100 in four bytes; {zero}, 12 bytes, and {zeros N}.
type exchange struct {
	t      *testing.T
	leases *fakeLeases
	server *Server
	client netip.Addr
	answer []byte
}

var failures = map[string]error{
	"denied": lease.ErrDenied, "quota": lease.ErrQuota, "full": lease.ErrFull, "daemon": lease.ErrDaemon,
	"taken": &lease.TakenError{Proto: nat.UDP, Port: 5000, Holder: "another"},
}

func TestExchanges(t *testing.T) {
	for file, atLeast := range map[string]int{"testdata/nat-pmp.txt": 25, "testdata/pcp.txt": 60} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, rest, _ := strings.Cut(string(text), "\n## ")
		exchanges := strings.Split(rest, "\n## ")
		assert.GreaterOrEqual(t, len(exchanges), atLeast)
		for _, one := range exchanges {
			name, lines, _ := strings.Cut(one, "\n")
			t.Run(name, func(t *testing.T) {
				x := exchange{t: t, leases: newFake(), client: netip.MustParseAddr("192.168.1.10")}
				x.leases.clean = true
				x.server = x.leases.server()
				for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
					x.do(strings.TrimSpace(line))
				}
			})
		}
	}
}

// do does what a line says.
func (x *exchange) do(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "", "#":
	case "client":
		x.client = netip.MustParseAddr(rest)
	case "wan":
		x.leases.wan, _ = netip.ParseAddr(rest)
	case "taken":
		x.leases.taken[rest] = true
	case "operator":
		m, err := nat.ParseMappingText(strings.TrimPrefix(strings.TrimPrefix(rest, "udp "), "tcp "))
		require.NoError(x.t, err)
		m.Proto = nat.UDP
		x.leases.all = append(x.leases.all, lease.Lease{
			Key: "by hand", Client: m.Backend.Addr(), Proto: m.Proto, Internal: m.Backend.Port(), External: m.Frontend.Port(),
		})
	case "fail":
		require.Contains(x.t, failures, rest)
		x.leases.fail = failures[rest]
	case "sleep":
		n, err := strconv.Atoi(rest)
		require.NoError(x.t, err)
		x.leases.sleep(time.Duration(n) * time.Second)
	case ">":
		q := x.bytes(rest)
		x.answer = x.server.Answer(x.t.Context(), nil, q, x.client)
		assertSmall(x.t, q, x.answer)
	case "<":
		want := ""
		if rest != "nothing" {
			want = hex.EncodeToString(x.bytes(rest))
		}
		assert.Equal(x.t, want, hex.EncodeToString(x.answer), line)
	case "=":
		assert.Equal(x.t, rest, x.leases.String())
	default:
		require.Fail(x.t, "no such line: "+line)
	}
}

// bytes reads what a message is.
func (x *exchange) bytes(text string) []byte {
	wan := x.leases.wan
	if !wan.IsValid() {
		wan = netip.IPv4Unspecified()
	}
	text = strings.NewReplacer(
		"{client}", hex.EncodeToString(appendAddress(nil, x.client)),
		"{wan}", hex.EncodeToString(appendAddress(nil, wan)),
		"{any}", hex.EncodeToString(appendAddress(nil, netip.IPv4Unspecified())),
		"{nonce}", "0102030405060708090a0b0c", "{other}", "cccccccccccccccccccccccc",
		"{epoch}", "00000064", "{zero}", strings.Repeat("00", 12),
	).Replace(text)
	if before, after, ok := strings.Cut(text, "{zeros "); ok {
		n, rest, _ := strings.Cut(after, "}")
		count, err := strconv.Atoi(n)
		require.NoError(x.t, err)
		text = before + strings.Repeat("00", count) + rest
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	require.NoError(x.t, err, text)
	return b
}

// headers are the bytes of an IPv4 and a UDP header: what a packet has at least.
const headers = 28

// assertSmall checks that an answer makes at most three times the question, so that it is worth nothing to those who
// forge the source of requests.
func assertSmall(t *testing.T, q, answer []byte) {
	t.Helper()
	assert.LessOrEqual(t, len(answer)+headers, 3*(len(q)+headers))
	assert.LessOrEqual(t, len(answer), maxMessage)
	if len(answer) > 0 {
		// What cannot stand in a name may become longer, as far as a description has room.
		assert.LessOrEqual(t, len(answer), max(headerLen, len(q)+36), "an answer is as long as the question, or a header")
	}
}

// TestResults compares names and lifetimes with RFC 6887 section 7.4.
func TestResults(t *testing.T) {
	const short, long = 30 * time.Second, 30 * time.Minute
	for r, want := range map[result]struct {
		name     string
		lifetime time.Duration
	}{
		0: {"SUCCESS", 0}, 1: {"UNSUPP_VERSION", long}, 2: {"NOT_AUTHORIZED", long}, 3: {"MALFORMED_REQUEST", long},
		4: {"UNSUPP_OPCODE", long}, 5: {"UNSUPP_OPTION", long}, 6: {"MALFORMED_OPTION", long}, 7: {"NETWORK_FAILURE", short},
		8: {"NO_RESOURCES", short}, 9: {"UNSUPP_PROTOCOL", long}, 10: {"USER_EX_QUOTA", short},
		11: {"CANNOT_PROVIDE_EXTERNAL", short}, 12: {"ADDRESS_MISMATCH", long}, 13: {"EXCESSIVE_REMOTE_PEERS", long},
	} {
		assert.Equal(t, want.name, r.String())
		assert.Equal(t, want.lifetime, r.lifetime(), r.String())
	}
	assert.Equal(t, "result 14", result(14).String())
}

// TestErrors compares results for the errors of the leases.
func TestErrors(t *testing.T) {
	for err, want := range map[error]struct {
		pcp result
		pmp pmpResult
	}{
		nil:                 {success, pmpSuccess},
		lease.ErrDenied:     {notAuthorized, pmpNotAuthorized},
		lease.ErrKey:        {notAuthorized, pmpNotAuthorized},
		lease.ErrOther:      {notAuthorized, pmpNotAuthorized},
		lease.ErrQuota:      {userExQuota, pmpNoResources},
		lease.ErrFull:       {noResources, pmpNoResources},
		lease.ErrNoAddress:  {networkFailure, pmpNetworkFailure},
		lease.ErrDaemon:     {noResources, pmpNoResources},
		lease.ErrSources:    {excessiveRemotePeers, pmpNoResources},
		errors.New("other"): {noResources, pmpNoResources},
	} {
		assert.Equal(t, want.pcp, resultOf(err, true), "%v", err)
		assert.Equal(t, want.pcp, resultOf(err, false), "%v", err)
		assert.Equal(t, want.pmp, pmpResultOf(err), "%v", err)
	}
	taken := failures["taken"]
	assert.Equal(t, cannotProvideExternal, resultOf(taken, true))
	assert.Equal(t, noResources, resultOf(taken, false))
	assert.Equal(t, pmpNoResources, pmpResultOf(taken))
}

// TestManyFilters adds filters until there are too many.
func TestManyFilters(t *testing.T) {
	f := newFake()
	s := f.server()
	client := netip.MustParseAddr("192.168.1.10")
	ask := func(first, n int) result {
		q := request(client, 3600, 5000, 0)
		for i := first; i < first+n; i++ {
			q = appendOption(q, option{code: optFilter, data: filter(netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32))})
		}
		return result(s.Answer(t.Context(), nil, q, client)[atResult])
	}
	assert.Equal(t, success, ask(0, 40))
	before := f.String()
	assert.Equal(t, excessiveRemotePeers, ask(40, 40))
	assert.Equal(t, before, f.String())
	assert.Equal(t, success, ask(40, 24))
}

// request is a request for UDP.
func request(client netip.Addr, lifetime uint32, internal, external uint16) []byte {
	q := make([]byte, 8, 120)
	q[0], q[1] = pcpVersion, opMap
	q[4], q[5], q[6], q[7] = byte(lifetime>>24), byte(lifetime>>16), byte(lifetime>>8), byte(lifetime)
	q = appendAddress(q, client)
	q = append(q, "nonce nonce!"...)
	q = append(q, byte(nat.UDP), 0, 0, 0, byte(internal>>8), byte(internal), byte(external>>8), byte(external))
	return appendAddress(q, netip.IPv4Unspecified())
}

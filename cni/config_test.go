// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// configText is a configuration with keys, results and ports.
func configText(keys, prevResult, ports string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"nftnat-cni"%s,"prevResult":%s,"runtimeConfig":{"portMappings":%s}}`, keys, prevResult, ports)
}

// The results of plugins before.
const (
	both = `{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],` +
		`"ips":[{"address":"10.0.0.9/24","interface":0},{"address":"10.0.0.2/24","interface":1},{"address":"10.0.0.3/24","interface":1},{"address":"fd00::2/64"}]}`
	only4 = `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`
	only6 = `{"cniVersion":"1.1.0","ips":[{"address":"fd00::2/64"}]}`
)

func mappingsOf(text string) ([]nat.Mapping, error) {
	c, err := parseConfig([]byte(text))
	if err != nil {
		return nil, err
	}
	return c.mappings(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
}

// What runtimes send, and which mappings it makes.
func TestMappings(t *testing.T) {
	for _, test := range []struct{ prevResult, ports, want string }{
		{both, `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`, "0.0.0.0:8080->10.0.0.2:80 [::]:8080->[fd00::2]:80"},
		{both, `[{"HostPort":8080,"ContainerPort":80,"Protocol":"UDP","HostIP":""}]`, "0.0.0.0:8080->10.0.0.2:80/udp [::]:8080->[fd00::2]:80/udp"},
		{only4, `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`, "8080->10.0.0.2:80"},
		{only6, `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`, "8080->[fd00::2]:80"},
		{both, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"0.0.0.0"}]`, "0.0.0.0:1->10.0.0.2:2"},
		{both, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"::"}]`, "[::]:1->[fd00::2]:2"},
		{both, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"192.0.2.1"}]`, "192.0.2.1:1->10.0.0.2:2"},
		{both, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"::ffff:192.0.2.1"}]`, "192.0.2.1:1->10.0.0.2:2"},
		{both, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"127.0.0.1"}]`, "127.0.0.1:1->10.0.0.2:2"},
		{only4, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"2001:db8::1"},{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"::"}]`, ""},
		{only6, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"192.0.2.1"}]`, ""},
		{`{"cniVersion":"1.1.0"}`, `[{"hostPort":1,"containerPort":2,"protocol":"tcp"}]`, ""},
		{both, `[]`, ""},
		{both, `null`, ""},
		// Twins, and what another covers.
		{only4, `[{"hostPort":1,"containerPort":2,"protocol":"tcp"},{"hostPort":1,"containerPort":2,"protocol":"TCP"}]`, "1->10.0.0.2:2"},
		{both, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"127.0.0.1"},{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"0.0.0.0"}]`, "0.0.0.0:1->10.0.0.2:2"},
		{only4, `[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"127.0.0.1"},{"hostPort":1,"containerPort":3,"protocol":"tcp","hostIP":"127.0.0.2"}]`,
			"127.0.0.1:1->10.0.0.2:2 127.0.0.2:1->10.0.0.2:3"},
	} {
		ms, err := mappingsOf(configText("", test.prevResult, test.ports))
		require.NoError(t, err, test.ports)
		var texts []string
		for _, m := range ms {
			require.Equal(t, OwnerName("net", "id", "eth0"), m.Name)
			texts = append(texts, m.String())
		}
		require.Equal(t, test.want, strings.Join(texts, " "), "%s %s", test.prevResult, test.ports)
	}
}

// Nineteen thousand ports are one range.
func TestMappingsMany(t *testing.T) {
	var ports []string
	for p := range 19000 {
		ports = append(ports, fmt.Sprintf(`{"hostPort":%d,"containerPort":%d,"protocol":"udp"}`, 10000+p, 10000+p))
	}
	ms, err := mappingsOf(configText("", only4, "["+strings.Join(ports, ",")+"]"))
	require.NoError(t, err)
	require.Len(t, ms, 19000)
	require.Len(t, nat.Collapse(ms), 1)
}

// Keys of portmap that say nothing here, or nothing at all.
func TestConfigIgnores(t *testing.T) {
	for _, keys := range []string{
		`,"snat":true`, `,"backend":"iptables"`, `,"backend":"nftables"`, `,"markMasqBit":0`, `,"markMasqBit":31`, `,"masqAll":false`,
		`,"externalSetMarkChain":""`, `,"conditionsV4":[]`, `,"conditionsV4":[""]`, `,"conditionsV6":null`, `,"onConflict":"refuse"`, `,"hold":"auto"`,
		`,"somebody":{"else":1}`, `,"dns":{}`, `,"ipam":{}`,
	} {
		_, err := parseConfig([]byte(configText(keys, both, `[]`)))
		require.NoError(t, err, keys)
	}
}

// What cannot be done is refused with the code of the specification, and what makes no sense as portmap does it.
func TestConfigRefuses(t *testing.T) {
	const port = `"hostPort":8080,"containerPort":80`
	for _, test := range []struct {
		keys, ports string
		code        uint
		msg         string
	}{
		{`,"conditionsV4":["-s","192.0.2.0/24"]`, `[]`, 2, `conditionsV4 ["-s" "192.0.2.0/24"] is not supported`},
		{`,"conditionsV6":["","ip6 saddr ::1"]`, `[]`, 2, `conditionsV6 ["" "ip6 saddr ::1"] is not supported`},
		{`,"externalSetMarkChain":"KUBE-MARK-MASQ"`, `[]`, 2, `externalSetMarkChain "KUBE-MARK-MASQ" is not supported`},
		{`,"masqAll":true`, `[]`, 2, `masqAll true is not supported`},
		{`,"snat":false`, `[]`, 2, `snat false is not supported`},
		{`,"markMasqBit":32`, `[]`, 999, `failed to parse config: MasqMarkBit must be between 0 and 31`},
		{`,"markMasqBit":1,"externalSetMarkChain":""`, `[]`, 999, `failed to parse config: Cannot specify externalSetMarkChain and markMasqBit`},
		{`,"backend":"ebtables"`, `[]`, 999, `failed to parse config: unrecognized backend "ebtables"`},
		{`,"onConflict":"maybe"`, `[]`, 7, `invalid onConflict: "maybe"`},
		{`,"hold":"tight"`, `[]`, 7, `invalid hold: "tight"`},
		{``, `[{"hostPort":8080,"containerPort":0,"protocol":"tcp"}]`, 999, `failed to parse config: Invalid container port number: 0`},
		{``, `[{"hostPort":-1,"containerPort":80,"protocol":"tcp"}]`, 999, `failed to parse config: Invalid host port number: -1`},
		{``, `[{"hostPort":65536,"containerPort":80,"protocol":"tcp"}]`, 7, `invalid hostPort: 65536`},
		{``, `[{"hostPort":1,"containerPort":65536,"protocol":"tcp"}]`, 7, `invalid containerPort: 65536`},
		{``, `[{` + port + `}]`, 7, `invalid protocol: ""`},
		{``, `[{` + port + `,"protocol":"sctp"}]`, 2, `protocol "sctp" is not supported`},
		{``, `[{` + port + `,"protocol":"icmp"}]`, 7, `invalid protocol: "icmp"`},
		{``, `[{` + port + `,"protocol":"tcp","hostIP":"localhost"}]`, 7, `invalid hostIP: "localhost"`},
		{``, `[{` + port + `,"protocol":"tcp","hostIP":"fe80::1%eth0"}]`, 7, `invalid hostIP: "fe80::1%eth0"`},
		{``, `[{` + port + `,"protocol":"tcp","hostIP":"10.0.0.1/8"}]`, 7, `invalid hostIP: "10.0.0.1/8"`},
		{``, `[{` + port + `,"protocol":"tcp"},{"hostPort":8080,"containerPort":81,"protocol":"tcp"}]`, 7,
			`invalid portMappings: tcp 0.0.0.0:8080 leads to 10.0.0.2:80 and to 10.0.0.2:81`},
	} {
		_, err := mappingsOf(configText(test.keys, both, test.ports))
		require.Error(t, err, test.keys+test.ports)
		var e *types.Error
		require.ErrorAs(t, coded(err), &e)
		require.Equal(t, test.code, e.Code, test.keys+test.ports)
		require.Equal(t, test.msg, e.Msg)
	}
	for _, text := range []string{
		``, `[]`, `{"runtimeConfig":[]}`, `{"runtimeConfig":{"portMappings":{}}}`, `{"runtimeConfig":{"portMappings":[{"hostPort":"8080"}]}}`,
		`{"runtimeConfig":{"portMappings":[{"hostPort":1.5}]}}`, `{"runtimeConfig":{"portMappings":[{"hostPort":1e99}]}}`, `{"prevResult":[]}`,
		`{"cniVersion":"1.1.0","prevResult":{"cniVersion":"9.9.9"}}`, `{"cniVersion":"1.1.0","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"x"}]}}`,
	} {
		_, err := parseConfig([]byte(text))
		require.ErrorContains(t, err, "failed to parse config: ", text)
	}
}

// Whatever a runtime sends, the decoder returns an error or mappings that can be published.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(configText(`,"snat":true`, both, `[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"::"}]`)))
	f.Add([]byte(configText(`,"hold":"shared"`, only4, `[{"HostPort":1,"ContainerPort":65535,"Protocol":"UDP"}]`)))
	f.Add([]byte(`{"name":"n","cniVersion":"0.1.0","prevResult":{"ip4":{"ip":"10.0.0.2/24"}},"runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"tcp"}]}}`))
	f.Add([]byte(`{"name":"n","cniVersion":"0.4.0","prevResult":{"interfaces":[null],"ips":[{"version":"4","address":"10.0.0.2/24","interface":0},null]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = parseRemoval(text)
		c, err := parseConfig(text)
		if err != nil || c.PrevResult == nil {
			return
		}
		ms, err := c.mappings(&skel.CmdArgs{ContainerID: "id", IfName: "eth0"})
		if err != nil {
			return
		}
		for i, m := range ms {
			var invalid *nat.InvalidError
			if err := m.Validate(); err != nil && !errors.As(err, &invalid) {
				t.Fatalf("%v: %v", m, err)
			}
			require.False(t, slices.ContainsFunc(ms[:i], func(other nat.Mapping) bool { return overlap(&other, &m) }))
		}
	})
}

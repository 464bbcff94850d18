// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// The flags of dockerd 20.10 and 29 are read.
func TestParseFlags(t *testing.T) {
	c, err := ParseFlags("docker-proxy", strings.Fields("-proto udp -host-ip 0.0.0.0 -host-port 53 -container-ip 172.17.0.2 -container-port 5353 -use-listen-fd"), io.Discard)
	require.NoError(t, err)
	require.Equal(t, Config{
		Proto: "udp", HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: 53,
		ContainerIP: netip.MustParseAddr("172.17.0.2"), ContainerPort: 5353, ListenFD: true,
	}, c)
	require.NoError(t, c.Check())
	m, err := c.mapping("docker:x", true, false)
	require.NoError(t, err)
	require.Equal(t, "0.0.0.0:53->172.17.0.2:5353/udp", m.String())
	require.True(t, m.ProxyOnly)
	m, err = c.mapping("docker:x", false, true)
	require.NoError(t, err)
	require.Equal(t, "53->172.17.0.2:5353/udp", m.String())

	c, err = ParseFlags("docker-proxy", strings.Fields("-host-ip :: -host-port 80 -container-ip fd00::2 -container-port 80"), io.Discard)
	require.NoError(t, err)
	require.Equal(t, "tcp [::]:80 to [fd00::2]:80", c.Proto+" "+c.frontend().String()+" to "+c.backend().String())
}

// Flags that cannot be read are refused as package flag does, and what cannot be carried with a reason.
func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-host-ip nonsense":               `invalid value "nonsense" for flag -host-ip: invalid IP address: nonsense`,
		"-host-port nonsense":             `invalid value "nonsense" for flag -host-port: parse error`,
		"-host-port 99999999999999999999": `invalid value "99999999999999999999" for flag -host-port: value out of range`,
		"-nonsense":                       "flag provided but not defined: -nonsense",
		"-container-ip":                   "flag needs an argument: -container-ip",
	} {
		var out bytes.Buffer
		_, err := ParseFlags("docker-proxy", strings.Fields(args), &out)
		require.EqualError(t, err, want)
		require.True(t, strings.HasPrefix(out.String(), want+"\nUsage of docker-proxy:\n"), out.String())
	}
	_, err := ParseFlags("docker-proxy", []string{"-h"}, io.Discard)
	require.ErrorIs(t, err, flag.ErrHelp)
	for args, want := range map[string]string{
		"-proto icmp":                     "unsupported protocol icmp",
		"":                                "invalid host port -1: it is not 1 to 65535",
		"-host-port 65536":                "invalid host port 65536: it is not 1 to 65535",
		"-host-port 80 -container-port 0": "invalid container port 0: it is not 1 to 65535",
		"-host-port 0 -container-port 80": "invalid host port 0: it is not 1 to 65535",
	} {
		c, err := ParseFlags("docker-proxy", strings.Fields(args), io.Discard)
		require.NoError(t, err)
		require.EqualError(t, c.Check(), want)
	}
}

// Whatever the flags are, they are refused, or a mapping of them can be published or is ErrInvalid.
func FuzzParseFlags(f *testing.F) {
	f.Add("-proto\x00tcp\x00-host-ip\x000.0.0.0\x00-host-port\x0080\x00-container-ip\x00172.17.0.2\x00-container-port\x0080")
	f.Add("-host-ip\x00::ffff:1.2.3.4\x00-host-port=080\x00--container-port=0x50\x00-v=maybe")
	f.Add("-container-ip\x00fe80::1%eth0\x00-use-listen-fd=1\x00--\x00-h")
	f.Fuzz(func(t *testing.T, text string) {
		var out bytes.Buffer
		c, err := ParseFlags("docker-proxy", strings.Split(text, "\x00"), &out)
		if err != nil {
			require.NotEmpty(t, out.String())
			return
		}
		if c.Check() != nil || c.Proto == "sctp" {
			return
		}
		m, err := c.mapping("docker:x", false, false)
		if err != nil {
			require.ErrorIs(t, err, nat.ErrInvalid)
			return
		}
		require.NoError(t, m.Validate())
		require.Equal(t, c.HostPort, int(m.Frontend.Port()))
	})
}

// Whether dockerd makes rules is read from its arguments and its file.
func TestMakesRules(t *testing.T) {
	files := map[string]string{
		"/etc/docker/daemon.json": `{"iptables": false, "userland-proxy": true}`,
		"/x.json":                 `{"iptables": true, "ip6tables": false}`,
		"/broken.json":            `{"iptables": false`,
		"/strange.json":           `{"iptables": "no"}`,
	}
	read := func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, os.ErrNotExist
		}
		return []byte(text), nil
	}
	for _, c := range []struct {
		args     string
		ip4, ip6 bool
	}{
		{"/usr/sbin/dockerd", false, true},
		{"/usr/sbin/dockerd -H fd://", false, true},
		{"dockerd --iptables", true, true},
		{"dockerd --iptables=true --ip6tables=false", true, false},
		{"dockerd --config-file=/x.json", true, false},
		{"dockerd --config-file /x.json --iptables=0", false, false},
		{"dockerd --config-file /broken.json", true, true},
		{"dockerd --config-file /strange.json", true, true},
		{"dockerd --config-file /absent.json", true, true},
		{"bash -c dockerd", false, false},
	} {
		args := strings.Split(c.args, " ")
		require.Equal(t, c.ip4, makesRules(args, false, read), c.args)
		require.Equal(t, c.ip6, makesRules(args, true, read), c.args)
	}
}

func FuzzMakesRules(f *testing.F) {
	f.Add("dockerd\x00--config-file\x00x", []byte(`{"iptables": false}`))
	f.Add("dockerd\x00--config-file", []byte(`[]`))
	f.Fuzz(func(_ *testing.T, args string, file []byte) {
		for _, ip6 := range []bool{false, true} {
			makesRules(strings.Split(args, "\x00"), ip6, func(string) ([]byte, error) { return file, nil })
			makesRules(strings.Split(args, "\x00"), ip6, func(string) ([]byte, error) { return nil, errors.ErrUnsupported })
		}
	})
}

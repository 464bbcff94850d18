// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// When an endpoint is removed, its connections end, proxied ones too, even if its frontend is
// published again in the same apply; and that mapping is served.
func TestEndpointReplaced(t *testing.T) {
	const (
		network  = "networks: [{name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1}]\n"
		endpoint = "endpoints: [{name: web, network: inside, address: 172.30.0.2, ports: [\"8080:80\"]}]\n"
	)
	top, s := proxiedHost(t)
	s.loopback = "proxy"
	labtest.EchoTCP(t, top.Backend1, "other", ":81")
	s.serve(t)
	file := filepath.Join(t.TempDir(), "ports.yaml")
	apply := func(text string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		s.succeed(t, "apply --quiet -f "+file)
	}
	for _, c := range []struct{ mappings, answers string }{
		{`mappings: ["8080->172.30.0.2:81"]`, "other"},
		{`mappings: ["8080->172.30.0.2:80"]`, "backend"},
		{`mappings: [{mapping: "8080->172.30.0.2:80", name: web}]`, "backend"},
		{`mappings: ["0.0.0.0:8080->172.30.0.2:81"]`, "other"},
		{`mappings: [{mapping: "8080->172.30.0.2:81", proxy: false}]`, ""},
		{`mappings: []`, ""},
	} {
		apply(network + endpoint)
		proxied, translated := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080"), dialFlow(t, top.Client, "tcp", "192.0.2.1:8080")
		require.Equal(t, "backend", proxied.name(t))
		require.Equal(t, "backend", translated.name(t))
		apply(network + c.mappings)
		require.ErrorIs(t, proxied.refused(t), unix.ECONNRESET, c.mappings)
		if c.answers == "backend" { // what is forgotten of it is made up anew from its next packet
			goesOn(t, translated)
		} else {
			require.ErrorIs(t, translated.refused(t), unix.ECONNRESET, c.mappings)
		}
		require.NoError(t, translated.conn.Close())
		if c.answers == "" {
			require.ErrorIs(t, labtest.NoAnswer(t, top.Host, "tcp", "127.0.0.1:8080"), unix.ECONNREFUSED, c.mappings)
		} else {
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", c.answers)
		}
		// The connection of Reaches has ended too, and is counted for a moment more.
		await(t, "no connection to be carried: "+c.mappings, func() bool { return s.status(t).Flows.TCP == 0 })
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A shell completes names that exist, in words that need no quotes.
func TestCompletionOfMappings(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	s := newTestbed(t, top.Host)
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --name shop")
	s.succeed(t, "add udp 192.0.2.1:53 172.30.0.2:53")
	s.succeed(t, "network create inside 172.30.0.0/24")
	s.succeed(t, "attach web --network inside -p 90:80 -p 7000-7001:6000-6001/udp")
	for line, want := range map[string]string{
		"rm ": "tcp udp 192.0.2.1:53/udp\t192.0.2.1:53->172.30.0.2:53/udp 8080/tcp\t8080->172.30.0.2:80 shop " +
			"90/tcp\t90->172.30.0.2:80 web 7000-7001/udp\t7000-7001->172.30.0.2:6000-6001/udp web",
		"rm tcp ":      "8080\t8080->172.30.0.2:80 shop 90\t90->172.30.0.2:80 web",
		"rm --name ":   "shop web",
		"ls --name ":   "shop web",
		"explain udp ": "192.0.2.1:53\t192.0.2.1:53->172.30.0.2:53/udp 7000\t7000->172.30.0.2:6000/udp web",
		"detach ":      "web",
		"port ":        "web",
		"port web ":    "80 6000/udp 6001/udp",
	} {
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		cmd := bare(t, args...)
		cmd.Env = append(cmd.Env, "NFTNAT_SOCKET="+s.socket)
		r := labtest.Run(t, top.Host, cmd)
		require.Zero(t, r.Code, r.Stderr)
		words := strings.Split(strings.TrimSpace(r.Stdout), "\n")
		require.ElementsMatch(t, strings.Fields(want), strings.Fields(strings.Join(words[:len(words)-1], " ")), line)
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/cni"
)

// GC removes what the runtime does not know any more, of its own network alone, and nothing if the runtime has
// not said what it knows.
func TestCNICollect(t *testing.T) {
	h := newCNIHost(t)
	daemon := h.serve(t)
	long := strings.Repeat("f", 64)
	for i, id := range []string{"c1", "c2", long} {
		h.pod(id)
		for j, network := range []string{"net", "net2"} {
			h.succeeds(cniCall{
				command: "ADD", id: id, network: network, prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.2/24"}]}`,
				ports: fmt.Sprintf(`[{"hostPort":%d,"containerPort":80,"protocol":"tcp"}]`, 8000+10*j+i),
			})
		}
	}
	h.succeed(t, "add tcp 9000 172.30.0.3:80 --name web")
	all := h.published()
	gc := func(keys string) { h.succeeds(cniCall{command: "GC", keys: keys, prevResult: noVariable}) }
	gc("")
	require.Equal(t, all, h.published())
	for _, keys := range []string{`,"cni.dev/valid-attachments":{}`, `,"cni.dev/valid-attachments":"all"`} {
		require.Equal(t, 6, h.fails(cniCall{command: "GC", keys: keys}).Code)
	}
	require.Equal(t, all, h.published())
	valid := `[{"containerID":"c1","ifname":"eth0"},{"containerID":"` + long + `","ifname":"eth0"}]`
	gc(`,"cni.dev/valid-attachments":` + valid + `,"cni.dev/attachments":` + valid)
	require.Equal(t, "8000->172.30.0.2:80 c1/net, 8002->172.30.0.2:80 "+long+"/net, 8010->172.30.0.2:80 c1/net2, "+
		"8011->172.30.0.2:80 c2/net2, 8012->172.30.0.2:80 "+long+"/net2, 9000->172.30.0.3:80 web", h.published())
	gc(`,"cni.dev/attachments":[{"containerID":"c1","ifname":"eth0"}]`)
	gc(`,"cni.dev/valid-attachments":null`)
	require.Equal(t, "8010->172.30.0.2:80 c1/net2, 8011->172.30.0.2:80 c2/net2, 8012->172.30.0.2:80 "+long+"/net2, 9000->172.30.0.3:80 web", h.published())

	// Without a daemon as well.
	daemon.Kill()
	require.Equal(t, 50, h.fails(cniCall{command: "STATUS"}).Code)
	h.succeeds(cniCall{command: "GC", network: "net2", keys: `,"cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]`})
	h.succeeds(cniCall{command: "CHECK", id: "c2", network: "net2", prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.2/24"}]}`,
		ports: `[{"hostPort":8011,"containerPort":80,"protocol":"tcp"}]`})
	h.succeeds(cniCall{command: "DEL", id: "c2", network: "net2"})
	require.NoDirExists(t, cni.RecordsDir(h.socket))
	h.serve(t)
	require.Equal(t, "9000->172.30.0.3:80 web", h.published())
	h.succeed(t, "purge")
}

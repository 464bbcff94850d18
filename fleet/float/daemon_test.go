// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// programs builds nftnat and nftnat-fleet, once for all tests.
func programs(t *testing.T) (daemon, agent string) {
	t.Helper()
	dir := labtest.Scratch()
	for _, p := range []struct{ in, of string }{{"../..", "./cmd/nftnat"}, {"..", "./cmd/nftnat-fleet"}} {
		cmd := exec.Command(labtest.Tool(t, "go"), "build", "-o", dir+"/", p.of)
		cmd.Dir, cmd.Env = p.in, append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return filepath.Join(dir, "nftnat"), filepath.Join(dir, "nftnat-fleet")
}

// Whole programs: three hosts with a daemon and an agent each, a web server behind mappings of
// floating addresses of both families. The holder's agent is killed while etcd's leader is;
// then the addresses are handed over under new connections.
func TestPrograms(t *testing.T) {
	daemon, agent := programs(t)
	f := &fleet{Cluster: etcdtest.New(t, etcdtest.Options{Hosts: 3}), prefix: keys.Prefix, ttl: 5 * time.Second}
	f.store = open(t, f.Cluster, f.Client, f.prefix)
	web := labtest.AddMachine(t, f.LAN, "web", 50)
	labtest.EchoTCP(t, web, "web", ":80")
	env := append(os.Environ(), "NFTNAT_FLEET_ENDPOINTS="+strings.Join(f.Endpoints, ","))
	dir := t.TempDir()
	var clients []*api.Client
	for i, ns := range f.Hosts {
		socket := filepath.Join(dir, name(i))
		labtest.Start(t, ns, daemon, "serve", "--socket", socket)
		cmd := exec.Command(agent, "agent", "--host", name(i), "--group", "edge", "--socket", socket, "--listen", "", "--state-dir", "")
		cmd.Env = env
		f.agents = append(f.agents, labtest.StartCmd(t, ns, cmd))
		clients = append(clients, api.NewClient(socket))
	}
	do := func(input string, args ...string) labtest.Result {
		cmd := exec.Command(agent, args...)
		cmd.Env, cmd.Stdin = env, strings.NewReader(input)
		return labtest.Run(t, f.Client, cmd)
	}
	done := func(input string, args ...string) string {
		t.Helper()
		r := do(input, args...)
		require.Zero(t, r.Code, "%v: %s%s", args, r.Stdout, r.Stderr)
		return r.Stdout
	}
	mappings := []string{"192.0.2.100:8080->192.0.2.50:80", "[2001:db8:1::100]:8080->[2001:db8:1::32]:80"}
	done("mappings:\n- {mapping: '"+mappings[0]+"', name: web4, masquerade: true}\n- {mapping: '"+mappings[1]+"', name: web6, masquerade: true}\n", "apply", "--group", "edge", "-f", "-")
	addrs := []netip.Addr{float4, float6}
	for _, a := range addrs {
		done("", "float", "create", a.String(), "--group", "edge", "--dev", lab.MachineLink)
	}
	// published returns which hosts publish the mapping of an address.
	published := func(k int) (on []int) {
		for i, c := range clients {
			ms, err := c.Mappings(t.Context())
			if err != nil {
				return nil
			}
			for _, m := range ms {
				if m.String() == mappings[k] {
					on = append(on, i)
				}
			}
		}
		return on
	}
	front := func(a netip.Addr) string { return netip.AddrPortFrom(a, 8080).String() }
	// by is the host by which the server was reached: that is who it takes for the client.
	by := func(peer netip.AddrPort) int {
		for i, ns := range f.Hosts {
			if ns.V4 == peer.Addr() || ns.V6 == peer.Addr() {
				return i
			}
		}
		return -1
	}
	served := func(k int, not ...int) int {
		t.Helper()
		h := f.holder(t, addrs[k], not...)
		require.Equal(t, h, by(labtest.Reaches(t, f.Client, "tcp", front(addrs[k]), "web")))
		alive := func() bool { // what a dead agent left in its daemon does not count
			on := published(k)
			return len(on) == 1 && on[0] == h || len(on) == 2 && len(not) == 1
		}
		require.Eventually(t, alive, labtest.Stretch(10*time.Second), 10*time.Millisecond, "published on %v, held by %d", published(k), h)
		return h
	}
	holders := []int{served(0), served(1)}
	require.Contains(t, done("", "float", "ls"), "192.0.2.100")

	t.Run("handover", func(t *testing.T) {
		for k, a := range addrs {
			to := (holders[k] + 1) % 3
			c, stop := connect(t, f.Client, front(a), func(_ string, peer netip.AddrPort) string { return name(by(peer)) })
			c.many(t, name(holders[k]))
			done("", "handover", a.String(), name(to))
			changed := time.Now()
			c.many(t, name(to))
			stop()
			c.verify(t, changed)
			holders[k] = to
			require.Equal(t, to, served(k))
		}
	})
	t.Run("holder and leader die", func(t *testing.T) {
		p := probe(t, f.Client, float4)
		dead := holders[0]
		leader := f.Leader(t)
		require.NotNil(t, leader)
		begin := time.Now()
		f.agents[dead].Kill()
		leader.Kill()
		next := served(0, dead)
		took := time.Since(begin)
		t.Logf("the next host serves after %v", took.Round(time.Millisecond))
		require.Less(t, took, labtest.Stretch(2*f.ttl+3*time.Second))
		p.once(t)
		require.NotEqual(t, dead, next)
		leader.Start()
		f.AwaitReady(t)
	})
	r := do("", "float", "create", "127.0.0.1", "--group", "edge", "--dev", "eth0")
	require.Equal(t, 2, r.Code, r.Stderr)
	r = do("", "float", "create", "192.0.2.101", "--dev", "eth0")
	require.Equal(t, 2, r.Code, r.Stderr)
	r = do("", "float", "rm", "192.0.2.101", "--group", "edge")
	require.Equal(t, 4, r.Code, r.Stderr)
	r = do("", "handover", "192.0.2.100", "web9")
	require.Equal(t, 4, r.Code, r.Stderr)
	r = do("", "float", "create", "192.0.2.100", "--group", "edge", "--dev", "eth7")
	require.Equal(t, 3, r.Code, r.Stderr)
}

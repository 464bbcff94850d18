// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// inHairpinMode reads the mode of a bridge port with bridge(8).
func inHairpinMode(t *testing.T, ns *lab.NS, port string) bool {
	t.Helper()
	out := labtest.Exec(t, ns, "bridge", "-d", "link", "show", "dev", port)
	require.Contains(t, out, "hairpin ", "it is no port")
	return strings.Contains(out, "hairpin on")
}

func setHairpin(t *testing.T, ns *lab.NS, port string, on bool) {
	t.Helper()
	mode := map[bool]string{false: "off", true: "on"}[on]
	labtest.Exec(t, ns, "bridge", "link", "set", "dev", port, "hairpin", mode)
}

// hairpinRecords lists the ports that the table records as changed, each after its backend.
func hairpinRecords(t *testing.T, ns *lab.NS) []string {
	t.Helper()
	var found []string
	for _, line := range sortedElements(t, ns) {
		if set, record, _ := strings.Cut(line, " "); strings.HasPrefix(set, "hairpin") {
			found = append(found, record)
		}
	}
	return found
}

// runEngine is open, and runs the engine until the test ends or stop is called.
func runEngine(tb testing.TB, ns *lab.NS, o engine.Options) (e *engine.Engine, stop func()) {
	tb.Helper()
	e = open(tb, ns, o)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			tb.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	tb.Cleanup(stop)
	return e, stop
}

// reachesItself checks that a backend reaches itself by its frontend, at the host's address
// and at the gateway's.
func reachesItself(t *testing.T, top *lab.Topology, networks ...string) {
	t.Helper()
	for _, network := range networks {
		for _, f := range families(top) {
			for _, host := range []netip.Addr{f.host, f.gateway} {
				labtest.Reaches(t, top.Backend1, network, at(host, 8080), "web")
				if top.Backend2 != nil {
					labtest.Reaches(t, top.Backend2, network, at(host, 8080), "web")
				}
			}
		}
	}
}

// Without a daemon, a command knows from the table what earlier commands did.
func TestHairpinModeDirect(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: true})
	on := func() bool { return inHairpinMode(t, top.Host, lab.HostPort1) }
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":80")
	}
	for _, end := range [][]string{
		{"rm tcp 0.0.0.0:8080", "rm udp 0.0.0.0:8080", "rm tcp [::]:8080", "rm udp [::]:8080"},
		{"purge"},
		{"apply -f testdata/empty.yaml"},
	} {
		for _, network := range []string{"tcp", "udp"} {
			succeed(t, top.Host, "add", network, "0.0.0.0:8080", "172.30.0.2:80")
			succeed(t, top.Host, "add", network, "[::]:8080", "[fd00:30::2]:80")
		}
		require.Equal(t, []string{"172.30.0.2 port1", "fd00:30::2 port1"}, hairpinRecords(t, top.Host))
		reachesItself(t, top, "tcp", "udp")
		for _, command := range end {
			require.True(t, on(), "before %s", command)
			succeed(t, top.Host, strings.Fields(command)...)
		}
		require.False(t, on(), "after %s", end)
		require.False(t, inHairpinMode(t, top.Host, lab.HostPort2))
	}
}

// After a daemon was killed, the next one knows which ports to change back.
func TestHairpinModeDaemon(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: true})
	on := func() bool { return inHairpinMode(t, top.Host, lab.HostPort1) }
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":80")
	}
	s := newTestbed(t, top.Host)
	for _, end := range []string{"rm", "purge"} {
		for _, network := range []string{"tcp", "udp"} {
			s.succeed(t, "add "+network+" 0.0.0.0:8080 172.30.0.2:80")
			s.succeed(t, "add "+network+" [::]:8080 [fd00:30::2]:80")
		}
		reachesItself(t, top, "tcp", "udp")
		kill(t, s.daemon(t), unix.SIGKILL)
		require.True(t, on())
		reachesItself(t, top, "tcp", "udp")
		if end == "purge" {
			s.succeed(t, "purge")
			require.False(t, on())
			continue
		}
		for _, network := range []string{"tcp", "udp"} {
			for _, host := range []string{"0.0.0.0", "[::]"} {
				require.True(t, on())
				s.succeed(t, "rm "+network+" "+host+":8080")
			}
		}
		require.False(t, on())
		require.Empty(t, hairpinRecords(t, top.Host))
	}
}

// A command reports on stderr that it changed hairpin mode, with or without a daemon.
func TestHairpinModeNotes(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
		m := mode{ns: top.Host}
		if daemon {
			m.testbed = newTestbed(t, top.Host)
		}
		r := m.ask(t, "", strings.Fields("add tcp 8080 172.30.0.2:80")...)
		require.Zero(t, r.Code, r.Stderr)
		require.Contains(t, r.Stderr,
			"nftnat: switched hairpin mode on, for a backend to reach itself by its frontend: port="+lab.HostPort1+"\n")
		r = m.ask(t, "", strings.Fields("rm tcp 8080")...)
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, "nftnat: put hairpin mode back: port="+lab.HostPort1+"\n", r.Stderr)
	}
}

// hairpinKillCases are changes that turn hairpin mode on and off.
func hairpinKillCases() []killCase {
	return []killCase{
		{name: "hairpin on", do: func(e *engine.Engine) error {
			_, err := e.Publish(context.Background(), nat.PublishOptions{}, parsed([]string{"8080->172.30.0.2:80"})...)
			return err
		}},
		{name: "hairpin off", do: func(e *engine.Engine) error {
			_, err := e.Remove(context.Background(), nat.Removal{Mappings: parsed([]string{"8080->172.30.0.2:80"})})
			return err
		}},
	}
}

// If a process is killed between switching the mode and recording it, the next engine
// makes the two agree when it opens.
func TestHairpinModeKilled(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	on := func() bool { return inHairpinMode(t, top.Host, lab.HostPort1) }
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	const record = "172.30.0.2 port1"

	t.Run("after it has switched", func(t *testing.T) {
		hairpinKillCases()[0].kill(t, top.Host, "flows", "")
		require.True(t, on())
		e := open(t, top.Host, engine.Options{})
		require.True(t, on())
		labtest.Reaches(t, top.Backend1, "tcp", "192.0.2.1:8080", "web")
		unpublish(t, e, "8080->172.30.0.2:80")
		require.False(t, on())
		require.NoError(t, e.Purge(t.Context()))
	})
	t.Run("before it has switched", func(t *testing.T) {
		e := open(t, top.Host, engine.Options{})
		publish(t, e, "8080->172.30.0.2:80")
		require.NoError(t, e.Close())
		setHairpin(t, top.Host, lab.HostPort1, false)
		e = open(t, top.Host, engine.Options{})
		require.True(t, on())
		labtest.Reaches(t, top.Backend1, "tcp", "192.0.2.1:8080", "web")
		require.NoError(t, e.Purge(t.Context()))
		require.False(t, on())
	})
	t.Run("when it has put back and not unpublished", func(t *testing.T) {
		e := open(t, top.Host, engine.Options{})
		publish(t, e, "8080->172.30.0.2:80")
		require.NoError(t, e.Close())
		hairpinKillCases()[1].kill(t, top.Host, "commit", "")
		require.False(t, on())
		require.Equal(t, []string{record}, hairpinRecords(t, top.Host))
		e = open(t, top.Host, engine.Options{})
		require.True(t, on())
		labtest.Reaches(t, top.Backend1, "tcp", "192.0.2.1:8080", "web")
		require.NoError(t, e.Purge(t.Context()))
		require.False(t, on())
	})
	t.Run("and nothing is published any more", func(t *testing.T) {
		e := open(t, top.Host, engine.Options{})
		publish(t, e, "8080->172.30.0.2:80")
		require.NoError(t, e.Close())
		nft(t, top.Host, "delete", "element", "inet", "nftnat", "tcp4", "{ 8080 }")
		require.True(t, on())
		e = open(t, top.Host, engine.Options{})
		require.False(t, on())
		require.Empty(t, hairpinRecords(t, top.Host))
		require.NoError(t, e.Purge(t.Context()))
	})
}

// A neighbour that the administrator has set stays as it is when a port leads to it. Its
// bridge port gets the mode as soon as the bridge knows where it is.
func TestHairpinModeOfSetNeighbours(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":80")
	}
	mac := strings.Fields(labtest.Exec(t, top.Backend1, "ip", "-br", "link", "show", lab.MachineLink))[2]
	show := func() string {
		list := labtest.Exec(t, top.Host, "ip", "neigh", "show", "dev", lab.HostBridge, "nud", "permanent", "nud", "noarp")
		var backends []string
		for line := range strings.Lines(list) { // the kernel adds multicast addresses when it likes
			if a, err := netip.ParseAddr(strings.Fields(line)[0]); err == nil && !a.IsMulticast() {
				backends = append(backends, line)
			}
		}
		return strings.Join(backends, "")
	}
	for _, daemon := range []bool{false, true} {
		for a, state := range map[netip.Addr]string{top.Backend1.V4: "permanent", top.Backend1.V6: "noarp"} {
			labtest.Exec(t, top.Host, "ip", "neigh", "replace", a.String(), "dev", lab.HostBridge, "lladdr", mac, "nud", state)
		}
		labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "fdb_flush")
		before := show()
		require.Contains(t, before, "PERMANENT")
		require.Contains(t, before, "NOARP")
		e := open(t, top.Host, engine.Options{})
		if daemon {
			require.NoError(t, e.Close())
			e, _ = runEngine(t, top.Host, engine.Options{})
		}
		for _, f := range families(top) {
			publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80), toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+"/udp")
		}
		require.Equal(t, before, show())
		if daemon {
			labtest.Reaches(t, top.Client, "udp", at(top.Host.V4, 8080), "web") // and the bridge has seen its answer
			await(t, "hairpin mode", func() bool { return inHairpinMode(t, top.Host, lab.HostPort1) })
			reachesItself(t, top, "tcp", "udp")
			require.Equal(t, before, show())
			continue
		}
		require.NoError(t, e.Purge(t.Context()))
	}
}

// A port that had the mode before is not changed back.
func TestHairpinModeOfOthers(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: true})
	setHairpin(t, top.Host, lab.HostPort1, true)
	e := open(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80", "8081->172.30.0.3:80")
	require.Equal(t, []string{"172.30.0.3 port2"}, hairpinRecords(t, top.Host))
	require.NoError(t, e.Purge(t.Context()))
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort1))
	require.False(t, inHairpinMode(t, top.Host, lab.HostPort2))

	// A forged record is acted on once, and has no other effect.
	labtest.Exec(t, top.Host, "ip", "link", "add", "vxlan1", "type", "vxlan", "id", "1", "dstport", "4789")
	labtest.Exec(t, top.Host, "ip", "link", "set", "vxlan1", "master", lab.HostBridge)
	setHairpin(t, top.Host, "vxlan1", true)
	e = open(t, top.Host, engine.Options{})
	publish(t, e, "8081->172.30.0.3:80")
	require.NoError(t, e.Close())
	nft(t, top.Host, "add", "element", "inet", "nftnat", "hairpin4",
		`{ 172.30.0.7 comment "vxlan1", 172.30.0.8 comment "lan0", 172.30.0.9 comment "gone0", 172.30.0.10 comment "a b", 172.30.0.11 }`)
	e = open(t, top.Host, engine.Options{})
	require.Equal(t, []string{"172.30.0.3 port2"}, hairpinRecords(t, top.Host))
	require.True(t, inHairpinMode(t, top.Host, "vxlan1"), "no engine has given it that")
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort1))
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort2))
	require.NoError(t, e.Purge(t.Context()))
	require.False(t, inHairpinMode(t, top.Host, lab.HostPort2))
}

// A port behind which are other machines too is not changed, and the log says so.
func TestHairpinModeOfUplink(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostPort1, "nomaster")
	labtest.Exec(t, top.Host, "ip", "link", "add", "link", lab.HostPort1, "name", "uplink0", "type", "macvlan", "mode", "passthru")
	labtest.Exec(t, top.Host, "ip", "link", "set", "uplink0", "master", lab.HostBridge, "up")
	log := &logBuffer{}
	e, _ := runEngine(t, top.Host, engine.Options{Log: log.logger()})
	publish(t, e, "8080->172.30.0.2:80")
	publish(t, e, "8081->172.30.0.2:80")
	require.Contains(t, log.String(), "hairpin mode is left as it is")
	require.Contains(t, log.String(), "port=uplink0")
	require.Equal(t, 1, strings.Count(log.String(), "uplink0"), "it is said once")
	require.False(t, inHairpinMode(t, top.Host, "uplink0"))
	require.Empty(t, hairpinRecords(t, top.Host))
	require.NoError(t, e.Purge(t.Context()))
}

// The mode is set for families whose frames pass the hooks, by the setting of the namespace
// or of the bridge.
func TestHairpinModeByFamily(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	on := func() bool { return inHairpinMode(t, top.Host, lab.HostPort1) }
	e := open(t, top.Host, engine.Options{})
	for _, f := range families(top) {
		digit := map[bool]string{true: "", false: "6"}[f.host.Is4()]
		other := map[bool]string{true: "6", false: ""}[f.host.Is4()]
		text := fmt.Sprintf("%s->%s", at(f.wildcard, 8080), at(f.backend1, 80))
		global := "net.bridge.bridge-nf-call-ip%stables"
		bridge := func(digit, value string) {
			labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostBridge, "type", "bridge", "nf_call_ip"+digit+"tables", value)
		}
		for _, set := range []func(digit, value string){
			bridge,
			func(digit, value string) {
				require.NoError(t, top.Host.Sysctl(fmt.Sprintf(global, digit), value))
			},
		} {
			set(other, "1")
			publish(t, e, text)
			require.False(t, on(), f.name)
			unpublish(t, e, text)
			set(other, "0")
			set(digit, "1")
			publish(t, e, text)
			require.True(t, on(), f.name)
			labtest.Reaches(t, top.Backend1, "tcp", at(f.host, 8080), "web")
			unpublish(t, e, text)
			require.False(t, on(), f.name)
			set(digit, "0")
		}
	}
}

// A port with the mode sends a machine's own neighbour solicitations back to it. The machine
// must not treat them as a duplicate address.
func TestHairpinModeDuplicateAddressDetection(t *testing.T) {
	labtest.LongOnly(t, "2 s of duplicate address detection")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true})
	e := open(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80")
	require.True(t, inHairpinMode(t, top.Host, lab.HostPort1))
	for _, key := range []string{"accept_dad", "dad_transmits"} {
		require.NoError(t, top.Backend1.Sysctl("net.ipv6.conf."+lab.MachineLink+"."+key, "1"))
	}
	labtest.Exec(t, top.Backend1, "ip", "addr", "add", "fd00:30::77/64", "dev", lab.MachineLink)
	addr := func() string {
		return labtest.Exec(t, top.Backend1, "ip", "addr", "show", "dev", lab.MachineLink, "to", "fd00:30::77")
	}
	require.Contains(t, addr(), "tentative", "it is not detected at all")
	await(t, "the detection to end", func() bool { return !strings.Contains(addr(), "tentative") })
	require.Contains(t, addr(), "fd00:30::77")
	require.NotContains(t, addr(), "dadfailed")
	labtest.EchoTCP(t, top.Backend1, "web", "[fd00:30::77]:81")
	labtest.Reaches(t, top.Host, "tcp", "[fd00:30::77]:81", "web")
}

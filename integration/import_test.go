// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// asking is new connections without a pause to a port, until one fails.
type asking struct {
	end   atomic.Int64 // after how many; zero: it is not known yet
	done  sync.WaitGroup
	asked atomic.Int64
	err   error
}

// synTimeout is when a client sends a SYN again (tcp(7)): a connection that takes longer has lost one.
const synTimeout = 900 * time.Millisecond

func startAsking(ctx context.Context, ns *lab.NS, network, addr string) *asking {
	s := &asking{}
	s.done.Go(func() {
		for ctx.Err() == nil && s.err == nil {
			if end := s.end.Load(); end != 0 && s.asked.Load() >= end {
				return
			}
			began := time.Now()
			_, _, err := askWithin(ns, network, addr, netip.AddrPort{}, 5*time.Second)
			if took := time.Since(began); err == nil && took > labtest.Stretch(synTimeout) {
				err = fmt.Errorf("it took %v", took)
			}
			if n := s.asked.Add(1); err != nil {
				s.err = fmt.Errorf("%s %s, connection %d: %w", network, addr, n, err)
			}
		}
	})
	return s
}

// stop ends it after some connections more, which begin after the change.
func (s *asking) stop(t *testing.T) {
	t.Helper()
	s.end.Store(s.asked.Load() + 20)
	s.done.Wait()
	require.NoError(t, s.err)
}

// reached is what a client asks, and who answers.
type reached struct{ network, addr, name string }

// movesTo imports from a source, in the place of which nftnat serves the same, and returns what was printed. No
// connection fails meanwhile.
func movesTo(t *testing.T, s *testbed, client *lab.NS, command string, same []reached) labtest.Result {
	t.Helper()
	return moves(t, client, func() labtest.Result { return s.run(t, command) }, same)
}

func moves(t *testing.T, client *lab.NS, run func() labtest.Result, same []reached) labtest.Result {
	t.Helper()
	for _, r := range same {
		labtest.Reaches(t, client, r.network, r.addr, r.name)
	}
	streams := make([]*asking, len(same))
	for i, r := range same {
		streams[i] = startAsking(t.Context(), client, r.network, r.addr)
	}
	result := run()
	for _, st := range streams {
		st.stop(t)
	}
	require.Zero(t, result.Code, result.Stderr)
	for _, r := range same {
		labtest.Reaches(t, client, r.network, r.addr, r.name)
	}
	return result
}

// importHost is a host with two backends that echo.
func importHost(t *testing.T) (*lab.Topology, *testbed) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, Forwarding: true})
	for _, network := range []string{"tcp", "udp"} {
		for port := 80; port <= 83; port++ {
			labtest.Echo(t, top.Backend1, network, fmt.Sprint("one", port), fmt.Sprint(":", port))
			labtest.Echo(t, top.Backend2, network, fmt.Sprint("two", port), fmt.Sprint(":", port))
		}
	}
	return top, newTestbed(t, top.Host)
}

// What iptables has in the kernel is imported over netlink, and its rules are deleted when nftnat has the ports.
func TestImportIPTables(t *testing.T) {
	labtest.Tool(t, "iptables")
	top, s := importHost(t)
	shell(t, top.Host, `
		iptables -t nat -N WEB
		iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j WEB
		iptables -t nat -A WEB -p tcp --dport 8080 -m comment --comment "the \"web\"" -j DNAT --to-destination 172.30.0.2:80
		iptables -t nat -A WEB -p tcp -m multiport --dports 8081,8083 -j DNAT --to-destination 172.30.0.3:81
		iptables -t nat -A WEB -d 192.0.2.9 -p udp --dport 5000:5003 -j DNAT --to-destination 172.30.0.2:80-83/5000
		iptables -t nat -A WEB -i br0 -p tcp --dport 8090 -j DNAT --to-destination 172.30.0.2:80
		iptables -t nat -A WEB -p tcp --dport 8080 -j DNAT --to-destination 172.30.0.3:80
		iptables -t nat -A WEB -p tcp --dport 8091 -j REDIRECT --to-ports 22
		ip6tables -t nat -A PREROUTING -s 2001:db8:1::/64 -p tcp --dport 8080 -j DNAT --to-destination '[fd00:30::3]:80'`)
	r := s.run(t, "import iptables")
	require.Zero(t, r.Code, r.Stderr)
	require.Equal(t, `# import iptables: 5 found, 3 left out, from the rules of this host
# "nftnat apply" makes the state just this; "nftnat import iptables --apply" adds it to what is there
version: 1
mappings:
  # ip6tables -t nat -A PREROUTING -s 2001:db8:1::/64 -p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00:30::3]:80
  - {mapping: "[::]:8080->[fd00:30::3]:80", from: ["2001:db8:1::/64"]}
  # iptables -t nat -A WEB -p tcp -m tcp --dport 8080 -m comment --comment "the \"web\"" -j DNAT --to-destination 172.30.0.2:80
  - 0.0.0.0:8080->172.30.0.2:80
  # iptables -t nat -A WEB -p tcp -m multiport --dports 8081,8083 -j DNAT --to-destination 172.30.0.3:81
  - 0.0.0.0:8081->172.30.0.3:81
  # iptables -t nat -A WEB -p tcp -m multiport --dports 8081,8083 -j DNAT --to-destination 172.30.0.3:81
  - 0.0.0.0:8083->172.30.0.3:81
  # iptables -t nat -A WEB -d 192.0.2.9/32 -p udp -m udp --dport 5000:5003 -j DNAT --to-destination 172.30.0.2:80-83/5000
  - 192.0.2.9:5000-5003->172.30.0.2:80-83/udp
# left out:
#   iptables -t nat -A WEB -i br0 -p tcp -m tcp --dport 8090 -j DNAT --to-destination 172.30.0.2:80
#     because it is for packets only that come in by br0
#   iptables -t nat -A WEB -p tcp -m tcp --dport 8091 -j REDIRECT --to-ports 22
#     because it redirects to this host itself
#   iptables -t nat -A WEB -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.30.0.3:80
#     because a rule before it takes its packets: iptables -t nat -A WEB -p tcp -m tcp --dport 8080 -m comment --comment "the \"web\"" -j DNAT --to-destination 172.30.0.2:80
`, r.Stdout)
	file := filepath.Join(t.TempDir(), "ports.yaml")
	require.NoError(t, os.WriteFile(file, []byte(r.Stdout), 0o600))
	dry := s.run(t, "apply --dry-run -f "+file)
	require.Zero(t, dry.Code, dry.Stderr)
	require.Equal(t, 5, strings.Count(dry.Stdout, "+ "))

	same := []reached{
		{"tcp", at(top.Host.V4, 8080), "one80"}, {"tcp", at(top.Host.V4, 8081), "two81"}, {"tcp", at(top.Second4, 8083), "two81"},
		{"udp", at(top.Second4, 5002), "one82"}, {"tcp", at(top.Host.V6, 8080), "two80"},
	}
	r = movesTo(t, s, top.Client, "import iptables --apply --remove-theirs", same)
	require.Equal(t, 5, strings.Count(r.Stdout, "->"))
	require.Equal(t, 3, strings.Count(r.Stderr, "nftnat: removed: "), r.Stderr)
	require.Contains(t, r.Stderr, "nftnat: not removed: iptables -t nat -A WEB -p tcp -m tcp --dport 8080 -m comment --comment \"the \\\"web\\\"\" -j DNAT --to-destination 172.30.0.2:80: "+
		"without it, another rule would get its packets: iptables -t nat -A WEB -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.30.0.3:80\n")
	left := labtest.Exec(t, top.Host, "iptables", "-t", "nat", "-S")
	require.Equal(t, 4, strings.Count(left, "--dport"), "what was not imported stays: %s", left)
	require.NotContains(t, labtest.Exec(t, top.Host, "ip6tables", "-t", "nat", "-S"), "DNAT")

	// The same again changes nothing.
	again := s.run(t, "import iptables --apply --remove-theirs")
	require.Zero(t, again.Code, again.Stderr)
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80\n", again.Stdout)
	require.Equal(t, left, labtest.Exec(t, top.Host, "iptables", "-t", "nat", "-S"))
	// Without the rule behind it, it goes.
	shell(t, top.Host, "iptables -t nat -D WEB -p tcp --dport 8080 -j DNAT --to-destination 172.30.0.3:80")
	again = s.run(t, "import iptables --apply --remove-theirs")
	require.Zero(t, again.Code, again.Stderr)
	require.NotContains(t, labtest.Exec(t, top.Host, "iptables", "-t", "nat", "-S"), "8080")
	require.Empty(t, s.status(t).Warnings)
}

// shell runs commands of sh(1).
func shell(t *testing.T, ns *lab.NS, script string) {
	t.Helper()
	labtest.Exec(t, ns, "sh", "-euc", script)
}

// Tables of iptables-legacy are no part of nf_tables: they are imported from their text, and not removed.
func TestImportLegacy(t *testing.T) {
	labtest.Tool(t, "iptables-legacy")
	top, s := importHost(t)
	shell(t, top.Host, `iptables-legacy -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.30.0.2:80`)
	save := filepath.Join(t.TempDir(), "save")
	require.NoError(t, os.WriteFile(save, []byte(labtest.Exec(t, top.Host, "iptables-legacy-save")), 0o600))
	require.Contains(t, s.succeed(t, "import iptables -f "+save), "  - 0.0.0.0:8080->172.30.0.2:80\n")
	same := []reached{{"tcp", at(top.Host.V4, 8080), "one80"}}
	r := movesTo(t, s, top.Client, "import iptables --apply --remove-theirs -f "+save, same)
	_, command, found := strings.Cut(strings.TrimSpace(r.Stderr), "remove it by: ")
	require.True(t, found, r.Stderr)
	command, _, _ = strings.Cut(command, "\n")
	shell(t, top.Host, command)
	require.NotContains(t, labtest.Exec(t, top.Host, "iptables-legacy-save"), "DNAT")
	labtest.Reaches(t, top.Client, "tcp", at(top.Host.V4, 8080), "one80")
}

// Rules of nft: literals, maps, intervals, concatenations, verdict maps. Elements of maps that have names are
// deleted one by one.
func TestImportNFTables(t *testing.T) {
	top, s := importHost(t)
	load(t, top.Host, `table inet edge {
		map ports { type inet_service : ipv4_addr . inet_service; elements = { 8080 : 172.30.0.2 . 80, 8081 : 172.30.0.3 . 81 } }
		map hosts { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; flags interval
			elements = { 192.0.2.9 . udp . 5000-5001 : 172.30.0.2 . 82, 192.0.2.0/28 . udp . 5003 : 172.30.0.2 . 83 } }
		chain pre { type nat hook prerouting priority dstnat;
			fib daddr type local dnat ip to tcp dport map @ports
			meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @hosts
			tcp dport vmap { 8082 : goto two, 8083 : drop }
			ip saddr { 192.0.2.2, 198.51.100.0/24 } tcp dport { 8084, 8086-8087 } dnat ip to 172.30.0.2:80
			meta mark 7 tcp dport 8090 dnat ip to 172.30.0.2:80
			iifname "lan0" tcp dport 8091 dnat ip to 172.30.0.2:80
			tcp dport 8092 redirect to :22
			ip6 daddr 2001:db8:1::1 udp dport 5000 dnat ip6 to [fd00:30::3]:81
		}
		chain two { meta l4proto tcp dnat ip to 172.30.0.3:82; }
	}`)
	r := s.run(t, "import nftables")
	require.Zero(t, r.Code, r.Stderr)
	for _, want := range []string{
		"- 0.0.0.0:8080->172.30.0.2:80\n", "- 0.0.0.0:8081->172.30.0.3:81\n", "- 192.0.2.9:5000->172.30.0.2:82/udp\n", "- 192.0.2.9:5001->172.30.0.2:82/udp\n",
		"- 192.0.2.1:5003->172.30.0.2:83/udp\n", "- 192.0.2.9:5003->172.30.0.2:83/udp\n", "- 0.0.0.0:8082->172.30.0.3:82\n",
		`- {mapping: "0.0.0.0:8084->172.30.0.2:80", from: ["192.0.2.2/32", "198.51.100.0/24"]}`, `- {mapping: "0.0.0.0:8087->172.30.0.2:80", from: `,
		"- \"[2001:db8:1::1]:5000->[fd00:30::3]:81/udp\"\n",
		"only: the packet's mark\n", "come in by lan0\n", "redirects to this host itself\n",
	} {
		require.Contains(t, r.Stdout, want)
	}
	same := []reached{
		{"tcp", at(top.Host.V4, 8080), "one80"}, {"tcp", at(top.Host.V4, 8081), "two81"}, {"tcp", at(top.Host.V4, 8082), "two82"},
		{"udp", at(top.Second4, 5001), "one82"}, {"udp", at(top.Host.V4, 5003), "one83"}, {"tcp", at(top.Host.V4, 8086), "one80"},
		{"udp", at(top.Host.V6, 5000), "two81"},
	}
	r = movesTo(t, s, top.Client, "import nftables --apply --remove-theirs", same)
	left := labtest.Exec(t, top.Host, "nft", "list", "table", "inet", "edge")
	require.NotContains(t, left, "elements = { 8080")
	require.NotContains(t, left, "5000")
	require.Equal(t, 3, strings.Count(left, "dnat ip to 172")+strings.Count(left, "redirect"), "what was not imported stays: %s", left)
	require.Contains(t, left, "map ports")
}

// portmap runs the CNI plugin as a runtime does, and returns the file that libcni keeps.
func portmap(t *testing.T, top *lab.Topology, ports string) string {
	t.Helper()
	const prev = `{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"%[1]s"}],"ips":[{"version":"4","interface":0,"address":"172.30.0.2/24","gateway":"172.30.0.1"}]}`
	plugin := pluginPath(t, "portmap", "/usr/lib/cni", "/opt/cni/bin")
	result := fmt.Sprintf(prev, top.Backend1.Path())
	cmd := exec.Command(plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS="+top.Backend1.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"0.4.0","name":"net","type":"portmap","capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":%s},"prevResult":%s}`, ports, result))
	r := labtest.Run(t, top.Host, cmd)
	require.Zero(t, r.Code, r.Stdout+r.Stderr)
	file := filepath.Join(t.TempDir(), "net-c1-eth0")
	text := fmt.Sprintf(`{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"net","netns":%q,"capabilityArgs":{"portMappings":%s},"result":%s}`,
		top.Backend1.Path(), ports, result)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func pluginPath(t *testing.T, name string, dirs ...string) string {
	t.Helper()
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	labtest.Skip(t, "there is no "+name+" in "+strings.Join(dirs, ", "))
	return ""
}

// What the CNI plugin portmap has published is imported from libcni's results, or as rules.
func TestImportPortmap(t *testing.T) {
	const ports = `[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""},{"hostPort":5000,"containerPort":81,"protocol":"udp","hostIP":"192.0.2.9"}]`
	for _, command := range []string{"import cni -f FILE", "import iptables"} {
		t.Run(command, func(t *testing.T) {
			top, s := importHost(t)
			file := portmap(t, top, ports)
			command = strings.Replace(command, "FILE", file, 1)
			text := s.succeed(t, command)
			require.Contains(t, text, "- 0.0.0.0:8080->172.30.0.2:80\n")
			require.Contains(t, text, "- 192.0.2.9:5000->172.30.0.2:81/udp\n")
			same := []reached{{"tcp", at(top.Host.V4, 8080), "one80"}, {"udp", at(top.Second4, 5000), "one81"}}
			movesTo(t, s, top.Client, command+" --apply --remove-theirs", same)
			require.NotContains(t, labtest.Exec(t, top.Host, "iptables-save", "-t", "nat"), "DNAT --to")
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "one80")
		})
	}
}

// What netavark has published is imported as rules.
func TestImportNetavark(t *testing.T) {
	netavark := pluginPath(t, "netavark", "/usr/lib/podman", "/usr/libexec/podman")
	top := newTopology(t, lab.Options{})
	s := newTestbed(t, top.Host)
	container := labtest.NewNS(t, "container")
	setup := `{"container_id":"c1","container_name":"web","port_mappings":[
		{"container_port":80,"host_ip":"","host_port":8080,"protocol":"tcp","range":1},{"container_port":81,"host_ip":"192.0.2.9","host_port":5000,"protocol":"udp","range":2}],
		"networks":{"podman":{"interface_name":"eth0","static_ips":["10.88.0.2"]}},
		"network_info":{"podman":{"dns_enabled":false,"driver":"bridge","id":"2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9","internal":false,"ipv6_enabled":false,
			"name":"podman","network_interface":"podman0","subnets":[{"gateway":"10.88.0.1","subnet":"10.88.0.0/16"}],"ipam_options":{"driver":"host-local"}}}}`
	path := labtest.MountNS(t, container, "netavark-test")
	config := t.TempDir()
	cmd := exec.Command(netavark, "--config", config, "--rootless", "false", "setup", path)
	cmd.Stdin = strings.NewReader(setup)
	r := labtest.Run(t, top.Host, cmd)
	require.Zero(t, r.Code, r.Stdout+r.Stderr)
	labtest.EchoTCP(t, container, "web", ":80")
	labtest.EchoUDP(t, container, "dns", ":82")
	text := s.succeed(t, "import netavark")
	require.Contains(t, text, "- 0.0.0.0:8080->10.88.0.2:80\n")
	require.Contains(t, text, "- 192.0.2.9:5000-5001->10.88.0.2:81-82/udp\n")
	same := []reached{{"tcp", at(top.Host.V4, 8080), "web"}, {"udp", at(top.Second4, 5001), "dns"}}
	movesTo(t, s, top.Client, "import netavark --apply --remove-theirs", same)
	require.NotContains(t, labtest.Exec(t, top.Host, "iptables-save", "-t", "nat"), "DNAT --to")
}

// What a client asks of miniupnpd (by NAT-PMP) is imported from its leases, with the time that is left.
func TestImportMiniupnpd(t *testing.T) {
	daemon := labtest.Tool(t, "miniupnpd")
	top, s := importHost(t)
	dir := t.TempDir()
	leases := filepath.Join(dir, "leases")
	load(t, top.Host, "table inet filter { chain forward { type filter hook forward priority 0; policy accept; }\nchain prerouting { type nat hook prerouting priority -100; policy accept; }\nchain postrouting { type nat hook postrouting priority 100; policy accept; }\n"+
		"chain miniupnpd { }\nchain prerouting_miniupnpd { }\nchain postrouting_miniupnpd { }\n}")
	shell(t, top.Host, `nft add rule inet filter prerouting jump prerouting_miniupnpd; nft add rule inet filter forward jump miniupnpd; nft add rule inet filter postrouting jump postrouting_miniupnpd`)
	config := filepath.Join(dir, "conf")
	require.NoError(t, os.WriteFile(config, []byte("ext_ifname=lan0\next_ip=11.22.33.44\nlistening_ip=br0\nenable_natpmp=yes\nenable_upnp=no\nsecure_mode=yes\nlease_file="+leases+
		"\nupnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\nupnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\nallow 1024-65535 0.0.0.0/0 1-65535\n"), 0o600))
	p := labtest.Start(t, top.Host, daemon, "-d", "-f", config, "-P", filepath.Join(dir, "pid"))
	require.NoError(t, natpmp(t, top.Backend1, netip.AddrPortFrom(top.Gateway4, 5351), 80, 8080, 3600), p.Output)
	text := s.succeed(t, "import miniupnpd -f "+leases)
	require.Contains(t, text, `mapping: "0.0.0.0:8080->172.30.0.2:80"`)
	require.Contains(t, text, "expires: ")
	movesTo(t, s, top.Client, "import miniupnpd --apply --remove-theirs -f "+leases, []reached{{"tcp", at(top.Host.V4, 8080), "one80"}})
}

// natpmp asks for a port by NAT-PMP (RFC 6886), until it is given.
func natpmp(t *testing.T, ns *lab.NS, gateway netip.AddrPort, private, public uint16, lifetime uint32) (err error) {
	t.Helper()
	c, err := ns.Dial(context.Background(), "udp", gateway.String())
	require.NoError(t, err)
	defer c.Close()
	const mapTCP = 2
	request := []byte{0, mapTCP, 0, 0}
	request = binary.BigEndian.AppendUint16(request, private)
	request = binary.BigEndian.AppendUint16(request, public)
	request = binary.BigEndian.AppendUint32(request, lifetime)
	for range 40 {
		if _, err = c.Write(request); err == nil {
			err = c.SetReadDeadline(time.Now().Add(250 * time.Millisecond))
		}
		answer := make([]byte, 64)
		var n int
		if err == nil {
			n, err = c.Read(answer)
		}
		if err == nil && n == 16 && binary.BigEndian.Uint16(answer[2:]) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("refused: %x", answer[:n])
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// A port that a process of theirs holds is published beside it.
func TestImportHeld(t *testing.T) {
	labtest.Tool(t, "iptables")
	top, s := importHost(t)
	holder, err := top.Host.Listen("tcp", "0.0.0.0:8080")
	require.NoError(t, err)
	defer holder.Close()
	shell(t, top.Host, "iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.30.0.2:80")
	text := s.succeed(t, "import iptables")
	require.Contains(t, text, "  # note: held by ")
	require.Contains(t, text, `  - {mapping: "0.0.0.0:8080->172.30.0.2:80", hold: shared}`)
	movesTo(t, s, top.Client, "import iptables --apply --remove-theirs", []reached{{"tcp", at(top.Host.V4, 8080), "one80"}})
	require.NotContains(t, labtest.Exec(t, top.Host, "iptables", "-t", "nat", "-S"), "DNAT")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "one80")
}

// A rule for some clients is left alone if others of the port are served otherwise: published for some, nobody else
// would get through.
func TestImportSomeClients(t *testing.T) {
	top, s := importHost(t)
	labtest.Echo(t, top.Host, "tcp", "own", "0.0.0.0:8080")
	load(t, top.Host, `table ip old { chain pre { type nat hook prerouting priority dstnat;
		ip saddr 198.51.100.0/24 tcp dport 8080 dnat to 172.30.0.2:80
		ip saddr 198.51.100.0/24 tcp dport 8081 dnat to 172.30.0.2:80
		tcp dport 8081 dnat to 172.30.0.3:81
		ip saddr 198.51.100.0/24 tcp dport 8082 redirect to :8080
		ip saddr != 198.51.100.0/24 tcp dport 8082 dnat to 172.30.0.3:82
		ip saddr != 198.51.100.0/24 tcp dport 8083 dnat to 172.30.0.3:83
	}; }`)
	same := []reached{
		{"tcp", at(top.Host.V4, 8080), "own"}, {"tcp", at(top.Host.V4, 8081), "two81"}, {"tcp", at(top.Host.V4, 8082), "two82"},
		{"tcp", at(top.Host.V4, 8083), "two83"},
	}
	r := movesTo(t, s, top.Client, "import nftables --apply --remove-theirs --quiet", same)
	require.Equal(t, "0.0.0.0:8083->172.30.0.3:83\n", r.Stdout)
	require.Equal(t, 5, strings.Count(labtest.Exec(t, top.Host, "nft", "list", "table", "ip", "old"), "tcp dport"))
}

// What is published is no program that holds the port, also where it is read back as a range.
func TestImportTwice(t *testing.T) {
	top, s := importHost(t)
	load(t, top.Host, `table ip old { chain pre { type nat hook prerouting priority dstnat;
		tcp dport 80 dnat to 172.30.0.2
		tcp dport 81 dnat to 172.30.0.2
		ip saddr 0.0.0.0/1 tcp dport 82 dnat to 172.30.0.2
		ip saddr 0.0.0.0/1 tcp dport 83 dnat to 172.30.0.2
		ip daddr != 203.0.113.9 tcp dport 90 dnat to 172.30.0.2:80
	}; }`)
	first := s.succeed(t, "import nftables")
	require.NotContains(t, first, "left out:", "what this host has no address for is of no account")
	s.succeed(t, "import nftables --apply")
	require.Equal(t, first, s.succeed(t, "import nftables"))
	s.succeed(t, "import nftables --apply --remove-theirs")
	require.NotContains(t, labtest.Exec(t, top.Host, "nft", "list", "table", "ip", "old"), "dport 8")
}

// What dockerd publishes is imported from its socket; docker-proxy keeps the port. Then its rules are, which are of the
// same ports.
func TestImportDocker(t *testing.T) {
	labtest.LongOnly(t, "an import from a dockerd under systemd")
	h := newDockerHost(t)
	h.configure(docBlock{text: "{}"})
	h.shell("systemctl start docker; iptables -P FORWARD ACCEPT")
	h.shell(dockerImage)
	h.shell("docker run --detach --name web --publish 8080:80 web")
	const mapping = `mapping: "8080->172.17.0.2:80", name: web`
	require.Contains(t, h.shell("docker inspect web | nftnat import docker -f -"), "- {"+mapping+"}\n")
	require.Contains(t, h.shell("nftnat import docker"), "  # note: held by docker-proxy (pid ")
	require.Contains(t, h.shell("nftnat import docker"), "- {"+mapping+", hold: shared}\n")
	rules := h.shell("nftnat import iptables")
	require.Contains(t, rules, `- {mapping: "0.0.0.0:8080->172.17.0.2:80", hold: shared}`)
	require.Contains(t, rules, "  # note: nftnat import docker has it as well, with what is not in rules\n")

	asks := labtest.Start(t, h.top.Client, "sh", "-c", "while :; do curl --silent --fail --max-time 1 http://192.0.2.1:8080/ || echo lost; done")
	await(t, "answers", func() bool { return strings.Contains(asks.Output(), "hello") })
	h.shell("nftnat import docker --apply")
	require.Contains(t, h.shell("iptables -t nat -S"), "DNAT")
	require.Equal(t, "8080->172.17.0.2:80\n", h.shell("nftnat import iptables --apply --remove-theirs --quiet"), "what is published stays")
	require.NotContains(t, h.shell("iptables -t nat -S"), "DNAT")
	require.Contains(t, h.shell("nftnat export"), mapping)
	before := len(asks.Output())
	await(t, "more answers", func() bool { return strings.Contains(asks.Output()[before:], "hello") })
	asks.Kill()
	require.NotContains(t, asks.Output(), "lost")
	for from, url := range map[*lab.NS]string{h.top.Host: "http://127.0.0.1:8080/", h.top.Client: "http://192.0.2.1:8080/"} {
		require.Equal(t, "hello", h.get(from, url))
	}
}

// What libcni keeps of plugins that it has executed is imported, of portmap with either backend, and where each container
// has a link of its own.
func TestImportCNI(t *testing.T) {
	labtest.LongOnly(t, "cnitool and the plugins of others")
	labtest.Tool(t, "go")
	theirs, err := cniPrograms()
	require.NoError(t, err)
	for name, plugins := range map[string]struct{ first, backend, list, dnat string }{
		"iptables": {`"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true`, "iptables", "iptables-save -t nat", "DNAT --to"},
		"nftables": {`"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true`, "nftables", "nft list table ip cni_hostport", "dnat to"},
		"ptp":      {`"type": "ptp"`, "iptables", "iptables-save -t nat", "DNAT --to"},
	} {
		t.Run(name, func(t *testing.T) {
			top, s := importHost(t)
			dir, cache := t.TempDir(), t.TempDir()
			list := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "net", "plugins": [
				{%s, "ipMasq": true, "ipam": {"type": "host-local", "dataDir": %q, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
					"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]}},
				{"type": "portmap", "backend": %q, "capabilities": {"portMappings": true}}]}`, plugins.first, filepath.Join(dir, "data"), plugins.backend)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "10.conflist"), []byte(list), 0o600))
			in := labtest.NewNS(t, "p1")
			labtest.MountNS(t, in, "p1")
			tool := func(verb string) {
				t.Helper()
				cmd := withVarLib(t, cache, filepath.Join(theirs, "cnitool"), verb, "net", "/run/netns/p1")
				cmd.Env = append(os.Environ(), "NETCONFPATH="+dir, "CNI_PATH="+theirs,
					`CAP_ARGS={"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":5000,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.9"}]}`)
				r := labtest.Run(t, top.Host, cmd)
				require.Zero(t, r.Code, r.Stdout+r.Stderr)
			}
			tool("add")
			labtest.EchoTCP(t, in, "web", ":80")
			labtest.EchoUDP(t, in, "dns", ":53")
			live := func(args ...string) labtest.Result {
				cmd := s.command(t, append([]string{"import", "cni"}, args...)...)
				return labtest.Run(t, top.Host, withVarLib(t, cache, cmd.Args...))
			}
			r := live()
			require.Zero(t, r.Code, r.Stderr)
			require.NotContains(t, r.Stdout, "left out:")
			for _, want := range []string{"- 0.0.0.0:8080->10.88.0.2:80\n", "- 192.0.2.9:5000->10.88.0.2:53/udp\n", `- "[::]:8080->[fd00:88::2]:80"` + "\n"} {
				require.Contains(t, r.Stdout, want)
			}
			rules := s.succeed(t, "import "+plugins.backend)
			require.Contains(t, rules, "- 0.0.0.0:8080->10.88.0.2:80\n")
			require.Contains(t, rules, "  # note: nftnat import cni has it as well, with what is not in rules\n")
			same := []reached{{"tcp", at(top.Host.V4, 8080), "web"}, {"tcp", at(top.Host.V6, 8080), "web"}, {"udp", at(top.Second4, 5000), "dns"}}
			moves(t, top.Client, func() labtest.Result { return live("--apply", "--remove-theirs") }, same)
			require.NotContains(t, labtest.Exec(t, top.Host, "sh", "-c", plugins.list), plugins.dnat)
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
			tool("del")
		})
	}
}

// Marks are set by rules that ports which are published do not meet: what is told apart by them stays theirs.
func TestImportMarks(t *testing.T) {
	top, s := importHost(t)
	shell(t, top.Host, `
		iptables -t nat -A PREROUTING -p tcp --dport 8080 -j MARK --set-xmark 0x2000/0x2000
		iptables -t nat -A PREROUTING -s 192.0.2.0/24 -p udp --dport 8080 -j CONNMARK --set-xmark 1
		iptables -t nat -A PREROUTING -p tcp --dport 8080:8081 -j DNAT --to-destination 172.30.0.2:80-81/8080
		iptables -t nat -A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 172.30.0.2:80
		iptables -t nat -A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE
		iptables -t nat -A POSTROUTING -m connmark --mark 1 -j MASQUERADE`)
	load(t, top.Host, `table ip old { chain pre { type nat hook prerouting priority dstnat + 1; tcp dport 8082 meta mark set 0x2000 dnat to 172.30.0.2:82; }; }`)
	marked := []reached{{"tcp", at(top.Host.V4, 8080), "one80"}, {"udp", at(top.Host.V4, 8080), "one80"}, {"tcp", at(top.Host.V4, 8082), "one82"}}
	for source, published := range map[string]string{"iptables": "0.0.0.0:8081->172.30.0.2:81\n", "nftables": ""} {
		r := s.run(t, "import "+source+" --apply --remove-theirs")
		require.Contains(t, r.Stderr, ": its packets are marked, which nftnat does not do, by ")
		require.Equal(t, published, r.Stdout)
	}
	for _, m := range marked {
		peer := labtest.Reaches(t, top.Client, m.network, m.addr, m.name)
		require.Equal(t, top.Gateway4, peer.Addr(), "%v is masqueraded", m)
	}
	require.NotEqual(t, top.Gateway4, labtest.Reaches(t, top.Client, "tcp", at(top.Host.V4, 8081), "one81").Addr())
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

const (
	openWrt    = "../packaging/openwrt"
	testbedWAN = "198.51.100.1" // the address of lab.HostFar
)

// openWrtRouter is a router with the files of packaging/openwrt: busybox runs the scripts, and the
// test does what procd would.
type openWrtRouter struct {
	*testbed
	*lab.Topology
	dir    string // has the scripts and the configuration
	stub   string // what stands for rc.common
	record string
	env    []string
}

func newOpenWrtRouter(t *testing.T) *openWrtRouter {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartFar, Forwarding: true})
	r := &openWrtRouter{testbed: newTestbed(t, top.Host), Topology: top, dir: t.TempDir()}
	here := strings.NewReplacer("/usr/bin/nftnat", programForAll(t)(0).Path, "/var/run/nftnat", filepath.Dir(r.socket), ". /lib/functions/network.sh", ":")
	for _, script := range []string{"nftnat", "nftnat-gateway"} {
		text := here.Replace(textOf(t, filepath.Join(openWrt, script+".init")))
		require.NoError(t, os.WriteFile(filepath.Join(r.dir, script), []byte(text), 0o644))
	}
	stub, err := filepath.Abs("testdata/openwrt/rc.common")
	require.NoError(t, err)
	r.stub = stub
	r.record = filepath.Join(r.dir, "record")
	r.env = append(os.Environ(), "CONFIG="+filepath.Join(r.dir, "config"), "RECORD="+r.record,
		"DEVICE_lan="+lab.HostLAN, "DEVICE_wan="+lab.HostFar)
	require.NoError(t, os.Mkdir(filepath.Join(r.dir, "config"), 0o755))
	r.configure(t)
	return r
}

// configure writes the configuration of packaging/openwrt, with other words.
func (r *openWrtRouter) configure(t *testing.T, words ...string) {
	t.Helper()
	text := textOf(t, filepath.Join(openWrt, "nftnat.config"))
	for i := 0; i < len(words); i += 2 {
		require.Contains(t, text, words[i])
		text = strings.Replace(text, words[i], words[i+1], 1)
	}
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "config", "nftnat"), []byte(text), 0o644))
}

// a procdService is what a script has told procd.
type procdService struct {
	command []string
	params  map[string][]string // the others
	calls   []string            // that are about no instance
}

// run runs an action of a script by both shells, which must tell procd the same.
func (r *openWrtRouter) run(t *testing.T, script, action string, env ...string) procdService {
	t.Helper()
	var outcome []procdService
	for _, shell := range [][]string{{"dash"}, {"busybox", "ash"}} {
		if action != "start" && shell[0] != "busybox" {
			continue // it does something, once
		}
		require.NoError(t, os.WriteFile(r.record, nil, 0o644))
		cmd := command(t, shell[0], slices.Concat(shell[1:], []string{r.stub, filepath.Join(r.dir, script), action})...)
		cmd.Env = append(slices.Clone(r.env), env...)
		result := labtest.Run(t, r.ns, cmd)
		require.Zero(t, result.Code, result.Stderr)
		if action == "start" {
			require.Empty(t, withoutWarnings(result).Stderr+result.Stdout)
		}
		outcome = append(outcome, procdOf(textOf(t, r.record)))
	}
	for _, o := range outcome {
		require.Equal(t, outcome[0], o, "the shells differ")
	}
	return outcome[0]
}

func procdOf(record string) procdService {
	s := procdService{params: map[string][]string{}}
	for line := range strings.Lines(record) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch words[0] {
		case "set_param", "append_param":
			if words[1] == "command" {
				s.command = append(s.command, words[2:]...)
				continue
			}
			s.params[words[1]] = append(s.params[words[1]], words[2:]...)
		case "open_instance", "close_instance":
		default:
			s.calls = append(s.calls, strings.Join(words, " "))
		}
	}
	return s
}

// start starts what procd would, and again when it has ended.
func (r *openWrtRouter) start(t *testing.T, s procdService) *labtest.Process {
	t.Helper()
	require.NotEmpty(t, s.command)
	cmd := exec.Command(s.command[0], s.command[1:]...)
	if user := s.params["user"]; user != nil {
		require.Equal(t, []string{"nobody"}, user)
		cmd.SysProcAttr = asNobody()
	}
	return labtest.StartCmd(t, r.ns, cmd)
}

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// startDaemon returns when the daemon has started, or has taken over.
func (r *openWrtRouter) startDaemon(t *testing.T, s procdService) *labtest.Process {
	t.Helper()
	p := r.start(t, s)
	await(t, "the daemon to answer", func() bool {
		select {
		case <-p.Done():
			t.Fatalf("the daemon has ended: %s", p.Output())
		default:
		}
		st, err := r.api.Status(t.Context())
		return err == nil && st.PID == p.Pid
	})
	return p
}

// As it is installed, the daemon runs and the gateway does not.
func TestOpenWrtDefault(t *testing.T) {
	r := newOpenWrtRouter(t)
	daemon := r.run(t, "nftnat", "start", "PATH="+pathWithoutUser(t))
	require.Equal(t, []string{"serve", "--socket", r.socket, "--takeover", "--loopback", "auto", "--log-level", "info"}, daemon.command[1:])
	require.Equal(t, []string{"add_reload_trigger nftnat"}, daemon.calls)
	require.Equal(t, []string{"3600", "5", "0"}, daemon.params["respawn"], "it is started again, however often it ends")
	require.Equal(t, []string{"1"}, daemon.params["stderr"])
	require.NotContains(t, daemon.params, "user")
	gateway := r.run(t, "nftnat-gateway", "start")
	require.Empty(t, gateway.command)
	require.Equal(t, []string{"add_reload_trigger nftnat"}, gateway.calls)

	r.configure(t, "option enabled '1'", "option enabled '0'")
	require.Empty(t, r.run(t, "nftnat", "start").command)
}

// ShellCheck finds nothing wrong with the scripts.
func TestOpenWrtScripts(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(openWrt, "*.init"))
	require.NoError(t, err)
	require.Len(t, scripts, 2)
	out, err := command(t, "shellcheck", scripts...).CombinedOutput()
	require.NoError(t, err, string(out))
}

// Daemon and gateway write nothing but below /run.
func TestReadOnly(t *testing.T) {
	requireUsers(t)
	top := newTopology(t, lab.Options{Parts: lab.PartFar, Forwarding: true})
	s := newTestbed(t, top.Host)
	labtest.EchoTCP(t, top.Client, "console", ":3074")
	const readOnly = `mount --bind /run /run && mount -o remount,bind,ro / && ! touch /written 2>/dev/null && exec "$@"`
	start := func(args ...string) *labtest.Process {
		words := append([]string{"--mount", "sh", "-c", readOnly, "sh"}, s.command(t, args...).Args...)
		return labtest.StartCmd(t, s.ns, command(t, "unshare", words...))
	}
	answers := func(p *labtest.Process, ask func() error) {
		t.Helper()
		await(t, "an answer", func() bool {
			select {
			case <-p.Done():
				t.Fatalf("it has ended: %s", p.Output())
			default:
			}
			return ask() == nil
		})
	}
	answers(start("serve"), func() error { _, err := s.api.Status(t.Context()); return err })
	socket := filepath.Join(filepath.Dir(s.socket), "gateway.sock")
	answers(start("gateway", "--lan", lab.HostLAN, "--wan", lab.HostFar, "--listen", socket), func() error {
		_, err := api.NewClient(socket).Gateway(t.Context())
		return err
	})
	result, _ := dialGateway(t, top.Client, top.Host.V4.String(), netip.AddrPort{}).tcp(t, 3074, 3074)
	require.Zero(t, result)
	labtest.Reaches(t, top.Far, "tcp", testbedWAN+":3074", "console")
}

// pathWithoutUser is a PATH with an id(1) that knows no user.
func pathWithoutUser(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "id"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	return dir + ":" + os.Getenv("PATH")
}

// The options reach the command lines. What cannot be is said, and is left out.
func TestOpenWrtOptions(t *testing.T) {
	r := newOpenWrtRouter(t)
	r.configure(t, "option enabled '0'", "option enabled '1'\n\toption external_ip '198.51.100.7'\n\tlist rule 'permit 1 2 3'", "list lan 'lan'", "list lan 'lan'\n\tlist lan 'guest'\n\tlist lan 'down'",
		"option pcp '1'", "option pcp 'off'", "option igd 'v1'", "option igd 'v2'", "#list rule 'deny", "list rule 'deny", "#list rule 'allow", "list rule 'allow",
		"#option state '/etc/nftnat/state.json'", "option state '/etc/nftnat/state.json'", "option loopback 'auto'", "option loopback 'proxy'")
	daemon := r.run(t, "nftnat", "start", "PATH="+pathWithoutUser(t))
	require.Equal(t, []string{"--loopback", "proxy", "--log-level", "info", "--state", "/etc/nftnat/state.json"}, daemon.command[5:])

	g := r.run(t, "nftnat-gateway", "start", "DEVICE_guest=br-guest", "DEVICE_wan=pppoe-wan", "PATH="+pathWithoutUser(t))
	require.Equal(t, []string{
		"gateway", "--socket", r.socket, "--listen", filepath.Join(filepath.Dir(r.socket), "gateway.sock"),
		"--wan", "pppoe-wan", "--igd", "v2", "--quota", "32", "--log-level", "info", "--lan", lab.HostLAN, "--lan", "br-guest",
		"--pcp=false", "--external-ip", "198.51.100.7",
		"--deny", "0-65535 192.168.1.9 0-65535", "--allow", "1024-65535 192.168.1.0/24 1024-65535",
	}, g.command[1:])
	require.Equal(t, []string{lab.HostLAN, "br-guest", "pppoe-wan"}, g.params["netdev"], "it is started again with another device of the name")
	require.NotContains(t, g.params, "user")
	require.Equal(t, []string{
		"logger -s -t nftnat-gateway -p daemon.err a rule begins with allow or deny: permit 1 2 3",
		"logger -s -t nftnat-gateway -p daemon.err there is no user nftnat: the gateway runs as root",
		"add_reload_trigger nftnat",
		"add_reload_interface_trigger wan", "add_reload_interface_trigger lan", "add_reload_interface_trigger guest", "add_reload_interface_trigger down",
	}, g.calls)

	for _, down := range []string{"DEVICE_wan=", "DEVICE_lan="} {
		g = r.run(t, "nftnat-gateway", "start", down)
		require.Empty(t, g.command)
		require.Contains(t, g.calls, "add_reload_interface_trigger wan", "it starts when the network is up")
		require.Contains(t, g.calls[0], "device")
	}
}

// Daemon and gateway run by the scripts, below a firewall as OpenWrt's: hosts get ports, and an
// upgrade interrupts nothing.
func TestOpenWrt(t *testing.T) {
	requireUsers(t)
	r := newOpenWrtRouter(t)
	labtest.EchoTCP(t, r.Client, "console", ":3074")
	labtest.EchoTCP(t, r.Client, "web", ":80")
	r.configure(t, "option enabled '0'", "option enabled '1'\n\toption user 'nobody'", "#list publish 'tcp 8080 192.168.1.10:80 --name web'", "list publish 'tcp 8080 192.0.2.2:80 --name web'")
	firewall := "table inet fw4 { chain forward { type filter hook forward priority filter; policy drop; iifname " + lab.HostLAN + " accept\n" +
		textOf(t, filepath.Join(openWrt, "nftnat.nft")) + "ct state established,related accept\n}\n}\n"
	labtest.ExecInput(t, r.ns, firewall, "nft", "-f", "-")

	service := r.run(t, "nftnat", "start")
	daemon := r.startDaemon(t, service)
	labtest.Reaches(t, r.Far, "tcp", testbedWAN+":8080", "web")
	require.Equal(t, service, r.run(t, "nftnat", "start"), "a reload that changes nothing")
	require.Contains(t, r.succeed(t, "ls"), "8080")

	g := r.run(t, "nftnat-gateway", "start")
	gateway := r.start(t, g)
	socket := filepath.Join(filepath.Dir(r.socket), "gateway.sock")
	answers := api.NewClient(socket)
	await(t, "the gateway to answer", func() bool {
		select {
		case <-gateway.Done():
			t.Fatalf("the gateway has ended: %s", gateway.Output())
		default:
		}
		state, err := answers.Gateway(t.Context())
		return err == nil && state.Address == testbedWAN
	})
	status := textOf(t, fmt.Sprintf("/proc/%d/status", gateway.Pid))
	require.Contains(t, status, "\nCapPrm:\t0000000000000000\n")
	require.Contains(t, status, "\nNoNewPrivs:\t1\n")
	remove := command(t, "rm", "-f", r.socket)
	remove.SysProcAttr = asNobody()
	require.Contains(t, labtest.Run(t, r.ns, remove).Stderr, "not permitted", "the gateway's user cannot take the daemon's place")
	c := dialGateway(t, r.Client, r.Host.V4.String(), netip.AddrPort{})
	result, port := c.tcp(t, 3074, 3074)
	require.Zero(t, result)
	require.EqualValues(t, 3074, port)
	labtest.Reaches(t, r.Far, "tcp", testbedWAN+":3074", "console")

	// The installed program takes over; procd sees its process end, and starts another, which takes
	// over from that.
	r.run(t, "nftnat", "upgrade")
	require.Zero(t, daemon.Wait())
	upgraded := r.status(t).PID
	require.NotEqual(t, daemon.Pid, upgraded)
	daemon = r.startDaemon(t, service)
	require.NotEqual(t, upgraded, daemon.Pid)
	result, port = c.tcp(t, 3074, 0)
	require.Zero(t, result)
	require.EqualValues(t, 3074, port)
	labtest.Reaches(t, r.Far, "tcp", testbedWAN+":3074", "console")
	labtest.Reaches(t, r.Far, "tcp", testbedWAN+":8080", "web")
}

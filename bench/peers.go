// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// program is a proxy that can be started.
type program struct {
	name    string
	paths   []string // the binary, the first that exists; none: nftnat
	udp     bool     // it forwards UDP too
	one     bool     // one process, or a few, for any number of ports and clients
	version []string // arguments that make it print its version
	// args are its arguments for a range of ports of 127.0.0.1 and one protocol, or for the
	// first of the ports if each needs a process. A program that is one process serves a single
	// TCP port at ::1 too.
	args func(dir, proto string, first, count int) ([]string, error)
	// args6 are those of a process more that serves a port at ::1; nil: none can.
	args6 func(port int) []string
}

// programs are the peers.
func programs() []program {
	return []program{
		{
			name: "docker-proxy", paths: []string{"/usr/bin/docker-proxy", "/usr/sbin/docker-proxy"}, udp: true,
			args: func(_, proto string, port, _ int) ([]string, error) {
				return dockerProxy(proto, "127.0.0.1", port), nil
			},
			args6: func(port int) []string { return dockerProxy("tcp", "::1", port) },
		},
		{name: "haproxy", paths: []string{"/usr/sbin/haproxy"}, one: true, version: []string{"-v"}, args: haproxy},
		{name: "nginx", paths: []string{"/usr/sbin/nginx"}, udp: true, one: true, version: []string{"-v"}, args: nginx},
		{
			name: "socat", paths: []string{"/usr/bin/socat"}, udp: true, version: []string{"-V"},
			args: func(_, proto string, port, _ int) ([]string, error) {
				option := ""
				if proto == "tcp" {
					option = ",backlog=4096"
				}
				proto = strings.ToUpper(proto)
				return []string{
					fmt.Sprintf("%s4-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr%s", proto, port, option),
					fmt.Sprintf("%s4:%s:%d", proto, backend(), backendPort),
				}, nil
			},
			args6: func(port int) []string {
				return []string{
					fmt.Sprintf("TCP6-LISTEN:%d,bind=[::1],ipv6only,fork,reuseaddr,backlog=4096", port),
					fmt.Sprintf("TCP4:%s:%d", backend(), backendPort),
				}
			},
		},
	}
}

// path is the path of the program; empty: it is not installed.
func (p *program) path() string {
	for _, path := range p.paths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// pick finds the line of the version.
func (p *program) pick(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(strings.ToLower(line), "version") {
			return strings.TrimSpace(line)
		}
	}
	return strings.TrimSpace(out)
}

func dockerProxy(proto, address string, port int) []string {
	return []string{
		"-proto", proto, "-host-ip", address, "-host-port", strconv.Itoa(port),
		"-container-ip", backend().String(), "-container-port", strconv.Itoa(backendPort),
	}
}

// haproxy writes a configuration like that of Debian: a thread for each processor, and room
// for the connections of the measurements.
func haproxy(dir, _ string, first, count int) ([]string, error) {
	var c strings.Builder
	c.WriteString("global\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n")
	for port := first; port < first+count; port++ {
		fmt.Fprintf(&c, "listen p%d\n  bind 127.0.0.1:%d\n", port, port)
		if count == 1 {
			fmt.Fprintf(&c, "  bind [::1]:%d\n", port)
		}
		fmt.Fprintf(&c, "  server b %s:%d\n", backend(), backendPort)
	}
	file := filepath.Join(dir, fmt.Sprintf("haproxy-%d.cfg", first))
	return []string{"-db", "-f", file}, os.WriteFile(file, []byte(c.String()), 0o600)
}

// nginx writes a configuration with a worker for each processor.
func nginx(dir, proto string, first, count int) ([]string, error) {
	var c strings.Builder
	c.WriteString("daemon off;\nworker_processes auto;\nuser root;\nworker_rlimit_nofile 65536;\n")
	fmt.Fprintf(&c, "pid %s/nginx-%s-%d.pid;\nerror_log /dev/null crit;\n", dir, proto, first)
	if modules, _ := filepath.Glob("/usr/lib/nginx/modules/ngx_stream_module.so"); len(modules) == 1 {
		fmt.Fprintf(&c, "load_module %s;\n", modules[0])
	}
	c.WriteString("events { worker_connections 32768; }\nstream {\n  proxy_timeout 1h;\n")
	option := ""
	if proto == "udp" {
		option = " udp reuseport" // otherwise it loses datagrams between its workers
	}
	for port := first; port < first+count; port++ {
		fmt.Fprintf(&c, "  server { listen 127.0.0.1:%d%s; ", port, option)
		if count == 1 && proto == "tcp" {
			fmt.Fprintf(&c, "listen [::1]:%d; ", port)
		}
		fmt.Fprintf(&c, "proxy_pass %s:%d; }\n", backend(), backendPort)
	}
	c.WriteString("}\n")
	file := filepath.Join(dir, fmt.Sprintf("nginx-%s-%d.conf", proto, first))
	return []string{"-c", file, "-p", dir}, os.WriteFile(file, []byte(c.String()), 0o600)
}

// peer is a running proxy: its address, and its processes without their children.
type peer struct {
	name  string
	addr  string // at 127.0.0.1; empty: it does not forward this protocol
	addr6 string // at ::1, for TCP
	roots []*exec.Cmd
	table string // of nftnat
}

// start starts as many processes as a program needs for a range of ports.
func (g *rig) start(p program, proto string, first, count int) (*peer, error) {
	started := &peer{name: p.name, addr: fmt.Sprintf("127.0.0.1:%d", first), addr6: fmt.Sprintf("[::1]:%d", first)}
	each, processes := count, 1
	if !p.one {
		each, processes = 1, count
	}
	for i := range processes {
		args, err := p.args(g.dir, proto, first+i, each)
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(p.path(), args...)
		if err := g.run(cmd); err != nil {
			return nil, fmt.Errorf("start %s: %w", p.name, err)
		}
		started.roots = append(started.roots, cmd)
	}
	return started, nil
}

// start6 lets a peer serve its port at ::1 too.
func (g *rig) start6(p program, to *peer, port int) error {
	if p.args6 == nil {
		return nil
	}
	cmd := exec.Command(p.path(), p.args6(port)...)
	if err := g.run(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	to.roots = append(to.roots, cmd)
	return nil
}

// nftnat starts a daemon and publishes a range of ports through it.
func (g *rig) nftnat(name, proto string, first, count int) (*peer, error) {
	bin := g.bin
	if name == otherBuild {
		bin = g.also
	}
	socket := filepath.Join(g.dir, fmt.Sprintf("nftnat-%s-%d.sock", proto, first))
	table := fmt.Sprintf("nftnat-%s-%d", proto, first)
	daemon := exec.Command(bin, "--socket", socket, "serve", "--table", table)
	if err := g.run(daemon); err != nil {
		return nil, fmt.Errorf("start nftnat: %w", err)
	}
	// A command that finds no daemon would start one of its own.
	err := await("nftnat to be there", func() error {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	ports := strconv.Itoa(first)
	target := fmt.Sprintf("%s:%d", backend(), backendPort)
	if count > 1 {
		ports = fmt.Sprintf("%d-%d", first, first+count-1)
		target = fmt.Sprintf("%s:%d-%d", backend(), backendPort, backendPort+count-1)
	}
	err = command(g.top.Host, bin, "--socket", socket, "--table", table, "add", "--quiet", proto, ports, target)
	return &peer{
		name: name, addr: fmt.Sprintf("127.0.0.1:%d", first), addr6: fmt.Sprintf("[::1]:%d", first),
		roots: []*exec.Cmd{daemon}, table: table,
	}, err
}

// stop ends a peer.
func (g *rig) stop(p *peer) {
	for _, cmd := range p.roots {
		g.kill(cmd)
	}
	g.deleteTable(p)
}

// deleteTable deletes what a daemon leaves when it ends, however it ends: packets of the others would
// pass its chains.
func (g *rig) deleteTable(p *peer) {
	if p.table != "" {
		_ = command(g.top.Host, "nft", "delete", "table", "inet", p.table)
	}
}

// peers starts nftnat and those of the others that are installed, for one port each, after
// "no proxy". The tables get a note of those that are not installed.
func (g *rig) peers(proto string, first int, tables ...*table) ([]*peer, error) {
	g.next = first
	all := []*peer{{
		name: "no proxy", addr: fmt.Sprintf("%s:%d", backend(), backendPort),
		addr6: fmt.Sprintf("[::ffff:%s]:%d", backend(), backendPort),
	}}
	for _, name := range []string{"nftnat", otherBuild} {
		if name == otherBuild && g.also == "" {
			continue
		}
		ours, err := g.nftnat(name, proto, g.port(), 1)
		if err != nil {
			return nil, err
		}
		all = append(all, ours)
	}
	for _, p := range programs() {
		if !g.set.wants(p.name) || !p.does(proto, tables...) {
			continue
		}
		port := g.port()
		started, err := g.start(p, proto, port, 1)
		if err == nil && proto == "tcp" {
			err = g.start6(p, started, port)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, started)
	}
	for _, p := range all {
		if err := g.answers(p, proto); err != nil {
			return nil, err
		}
		if proto == "tcp" {
			if err := g.answers(&peer{name: p.name, addr: p.addr6}, proto); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// otherBuild is the name of the other build in the tables.
const otherBuild = "nftnat (other)"

// does reports whether a program is installed and forwards a protocol.
func (p *program) does(proto string, tables ...*table) bool {
	why := ""
	switch {
	case p.path() == "":
		why = "is not installed and left out"
	case proto == "udp" && !p.udp:
		why = "does not proxy UDP and is left out"
	}
	for _, r := range tables {
		if why != "" {
			r.note("%s %s", p.name, why)
		}
	}
	return why == ""
}

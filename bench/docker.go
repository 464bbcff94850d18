// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// dockerWay is a program that is started for each port that Docker publishes.
type dockerWay struct {
	name string
	mode string // NFTNAT_DOCKER_MODE; empty: it is docker-proxy itself
}

// benchDocker measures docker-proxy and what takes its place, each started as dockerd does it: one
// process after another, when the one before has said that it is ready.
func benchDocker(rep *report, s settings) error {
	total := rep.table(fmt.Sprintf("%d TCP ports of Docker, memory (PSS) of all processes and the daemon", s.ports), "KiB")
	took := rep.table(fmt.Sprintf("%d TCP ports of Docker, time until the last is ready", s.ports), seconds)
	rate := rep.table("New TCP connections on this host to one of them, one byte there and back: 8 at a time", "1/s")
	ways := []dockerWay{{"nftnat, full mode", "full"}, {"nftnat, proxies alone", "proxy-only"}}
	peer := programs()[0]
	if s.wants(peer.name) && peer.does("tcp", total, took, rate) {
		ways = append(ways, dockerWay{name: peer.name})
	}
	return withRig(s, func(g *rig) error {
		g.next = firstPeerPort
		for range min(s.rounds, 3) {
			for _, w := range ways {
				begin := time.Now()
				p, err := g.docker(w, peer.path())
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				took.add(w.name, time.Since(begin).Seconds())
				if err := g.answers(p, "tcp"); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				time.Sleep(settleTime)
				total.add(w.name, p.pss()/1024)
				for range min(s.rounds, 3) {
					m, err := apply(g.top.Host, anyProcessor, load{Kind: "conns", Workers: 8, Addr: p.addr, Seconds: s.seconds})
					if err != nil {
						return fmt.Errorf("%s: %w", w.name, err)
					}
					rate.add(w.name, m.Rate)
				}
				g.stop(p)
			}
		}
		return nil
	})
}

// docker starts a process for each port, and before them a daemon if one is needed.
func (g *rig) docker(w dockerWay, path string) (*peer, error) {
	first := g.next
	g.next += g.set.ports
	p := &peer{name: w.name, addr: fmt.Sprintf("127.0.0.1:%d", first+g.set.ports-1)}
	env := os.Environ()
	if w.mode != "" {
		socket := filepath.Join(g.dir, fmt.Sprintf("docker-%d.sock", first))
		d, err := startDaemon(g.top.Host, g.bin, socket)
		if err != nil {
			return nil, err
		}
		g.running, p.roots = append(g.running, d.cmd), append(p.roots, d.cmd)
		path = filepath.Join(g.dir, "docker-proxy")
		if err := os.Symlink(g.bin, path); err != nil && !os.IsExist(err) {
			return nil, err
		}
		env = append(env, "NFTNAT_SOCKET="+socket, "NFTNAT_DOCKER_MODE="+w.mode)
	}
	for port := first; port < first+g.set.ports; port++ {
		cmd := exec.Command(path, dockerProxy("tcp", "0.0.0.0", port)...)
		cmd.Env = env
		if err := g.started(cmd); err != nil {
			return nil, err
		}
		// It ends before the daemon.
		p.roots = append([]*exec.Cmd{cmd}, p.roots...)
	}
	return p, nil
}

// started starts a docker-proxy and waits until it is ready.
func (g *rig) started(cmd *exec.Cmd) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{w}
	err = g.top.Host.Do(cmd.Start)
	_ = w.Close()
	defer func() { _ = r.Close() }()
	if err != nil {
		return err
	}
	g.running = append(g.running, cmd)
	status, err := io.ReadAll(r)
	if err == nil && string(status) != "0\n" {
		err = fmt.Errorf("it said %q", status)
	}
	return err
}

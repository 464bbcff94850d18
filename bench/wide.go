// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// wideRanges are what is published as one mapping, the first as the measure of the others.
var wideRanges = []struct{ ports, name string }{
	{"10000", "one port"}, {"10000-29000", "19,001 ports"}, {"10000-60000", "50,001 ports"},
}

// wideBench has the tables of benchWide, and what is measured.
type wideBench struct {
	*tools
	builds         []variant
	add, rm, adopt *table
	more, left     *table
	memory, opened *table
}

// benchWide measures ranges of UDP ports that keep their numbers, through the daemon.
func benchWide(rep *report, s settings) error {
	return withTools(func(t *tools) error {
		w := &wideBench{
			tools: t, builds: []variant{{"nftnat", t.nftnat}},
			add:    rep.table("A range of UDP ports, published by one command", seconds),
			rm:     rep.table("The same, removed by one command", seconds),
			adopt:  rep.table("The daemon's start after kill -9 of the one that published them, until it is ready", seconds),
			more:   rep.table("Memory (RSS) of the daemon, more than before it has published them", "KiB"),
			left:   rep.table("Memory (RSS) of the daemon, more than before, when they are removed again", "KiB"),
			memory: rep.table("Memory (RSS) of a daemon with one TCP range", "KiB"),
			opened: rep.table("Descriptors of a daemon with one TCP range", ""),
		}
		w.memory.note("it is to have at most 14 MiB, 14,336 KiB, and 64 descriptors, whatever the width")
		if s.also != "" {
			w.builds = append(w.builds, variant{otherBuild, s.also})
		}
		for range s.rounds {
			for _, v := range w.builds {
				for _, r := range wideRanges {
					if err := inNamespace(func(ns *lab.NS) error { return w.turn(ns, v, v.name+", "+r.name, r.ports) }); err != nil {
						return fmt.Errorf("%s: %w", v.name, err)
					}
				}
				for _, r := range []struct{ ports, name string }{{"1024-2023", "1,000 ports"}, {"1024-61023", "60,000 ports"}} {
					if err := inNamespace(func(ns *lab.NS) error { return w.idle(ns, v, v.name+", "+r.name, r.ports) }); err != nil {
						return fmt.Errorf("%s: %w", v.name, err)
					}
				}
			}
		}
		return nil
	})
}

// turn publishes a range, removes it, and publishes it again for the daemon that adopts it.
func (w *wideBench) turn(ns *lab.NS, v variant, name, ports string) error {
	socket := filepath.Join(w.dir, "nftnat.sock")
	d, err := startDaemon(ns, v.path, socket)
	if err != nil {
		return err
	}
	defer func() { d.end() }()
	// The first command has what the daemon does only once: one of another port.
	if err := w.process(ns, nil, nil, name, v.path, "--socket", socket, "add", "--quiet", "udp", "9000", backend().String()); err != nil {
		return err
	}
	before := smaps(d.cmd.Process.Pid, "Rss")
	add := []string{"--socket", socket, "add", "--quiet", "udp", ports, backend().String()}
	if err := w.process(ns, w.add, nil, name, v.path, add...); err != nil {
		w.add.note("%s: %s", name, said(err))
		return nil
	}
	w.more.add(name, (smaps(d.cmd.Process.Pid, "Rss")-before)/1024)
	if err := w.process(ns, w.rm, nil, name, v.path, "--socket", socket, "rm", "udp", ports); err != nil {
		return err
	}
	w.left.add(name, (smaps(d.cmd.Process.Pid, "Rss")-before)/1024)
	if err := w.process(ns, nil, nil, name, v.path, add...); err != nil {
		return err
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	begin := time.Now()
	next, err := startDaemon(ns, v.path, socket)
	if err != nil {
		return err
	}
	d = next
	w.adopt.add(name, time.Since(begin).Seconds())
	return nil
}

// said is what a command said of its failure.
func said(err error) string {
	text := err.Error()
	if _, words, ok := strings.Cut(text, "exit status 1: "); ok {
		return words
	}
	return text
}

// idle reads what a daemon has that has published a range and is left alone.
func (w *wideBench) idle(ns *lab.NS, v variant, name, ports string) error {
	d, err := startDaemon(ns, v.path, filepath.Join(w.dir, "nftnat.sock"))
	if err != nil {
		return err
	}
	defer d.end()
	if err := w.process(ns, nil, nil, name, v.path, "--socket", d.socket, "add", "--quiet", "tcp", ports, backend().String()); err != nil {
		w.memory.note("%s: %s", name, said(err))
		return nil
	}
	time.Sleep(settleTime)
	w.memory.add(name, smaps(d.cmd.Process.Pid, "Rss")/1024)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
	if err != nil {
		return err
	}
	w.opened.add(name, float64(len(files)))
	return nil
}

// benchUnpublished measures what a daemon costs those who do not use it: connections on this
// host, to a program that listens at a port which no mapping has.
func benchUnpublished(rep *report, s settings) error {
	loads := []struct {
		addr string
		*table
		alone *table
	}{
		{fmt.Sprintf("127.0.0.1:%d", backendPort), rep.table("New TCP connections to an unpublished port of 127.0.0.1", "1/s"),
			rep.table("A connection of a thread with itself at 127.0.0.1, median", seconds)},
		{fmt.Sprintf("[::1]:%d", backendPort), rep.table("New TCP connections to an unpublished port of ::1", "1/s"),
			rep.table("A connection of a thread with itself at ::1, median", seconds)},
		{fmt.Sprintf("192.0.2.1:%d", backendPort), rep.table("New TCP connections to an unpublished port of another address of this host", "1/s"),
			rep.table("A connection of a thread with itself at another address of this host, median", seconds)},
	}
	names := []string{noDaemon, trackingAlone, "nftnat"}
	if s.also != "" {
		names = append(names, otherBuild)
	}
	return withRig(s, func(g *rig) (err error) {
		server, err := startChild(g.top.Host, anyProcessor, "backend")
		if err != nil {
			return err
		}
		defer func() {
			if endErr := server.end(); err == nil {
				err = endErr
			}
		}()
		if _, err := server.line(); err != nil {
			return err
		}
		g.next = firstPeerPort
		for range s.rounds {
			for _, name := range names {
				if err := g.unpublished(name, func() error {
					for _, l := range loads {
						m, err := apply(g.top.Host, anyProcessor, load{Kind: "conns", Workers: 1, Addr: l.addr, Seconds: s.seconds})
						if err != nil {
							return err
						}
						l.add(name, m.Rate)
						if m, err = apply(g.top.Host, anyProcessor, load{Kind: "alone", Workers: 1, Addr: l.addr, Seconds: s.seconds}); err != nil {
							return err
						}
						l.alone.add(name, m.P50)
					}
					return nil
				}); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
		for _, l := range loads {
			for _, t := range []*table{l.table, l.alone} {
				for _, name := range names {
					t.compare(name, names[0])
				}
				t.compare("nftnat", trackingAlone)
				t.compare("nftnat", otherBuild)
			}
		}
		return nil
	})
}

// What connections to no mapping are compared with, beside a daemon.
const (
	noDaemon      = "no daemon"
	trackingAlone = "connection tracking alone"
)

// trackingRules have the kernel follow the connections of this host, and do nothing.
const trackingRules = `table inet tracking {
	chain output { type filter hook output priority 0; ct state invalid counter; }
}`

// unpublished calls f while a build of nftnat runs, or none.
func (g *rig) unpublished(name string, f func() error) (err error) {
	nft := func(args ...string) error {
		cmd := exec.Command("nft", args...)
		cmd.Stdin = strings.NewReader(trackingRules)
		return g.top.Host.Do(cmd.Run)
	}
	switch name {
	case noDaemon:
		return f()
	case trackingAlone:
		if err := nft("-f", "-"); err != nil {
			return fmt.Errorf("nft: %w", err)
		}
		defer func() { err = errors.Join(err, nft("delete", "table", "inet", "tracking")) }()
		return f()
	}
	p, err := g.nftnat(name, "tcp", g.port(), 1)
	if err != nil {
		return err
	}
	defer g.stopClean(p)
	return f()
}

// stopClean ends daemons so that they undo what they have changed of the host.
func (g *rig) stopClean(p *peer) {
	for _, cmd := range p.roots {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		g.kill(cmd)
	}
	g.deleteTable(p)
}

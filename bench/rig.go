// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/internal/lab"
)

// rig is the namespaces that proxies are measured in: the host, where proxies
// and clients are, and the backend.
type rig struct {
	top     *lab.Topology
	dir     string // for configurations
	bin     string // nftnat
	also    string // another build of it, or empty
	set     settings
	backend *child
	running []*exec.Cmd
	next    int // the port of the next peer
}

// withRig builds a rig, calls f, and removes it.
func withRig(set settings, f func(*rig) error) (err error) {
	dir, err := os.MkdirTemp("", "nftnat-bench")
	if err != nil {
		return err
	}
	g := &rig{dir: dir, also: set.also, set: set}
	defer func() {
		if closeErr := g.close(); err == nil {
			err = closeErr
		}
	}()
	if g.bin, err = build(dir); err != nil {
		return err
	}
	if g.top, err = lab.Build(lab.Options{Parts: lab.PartBackend1, Forwarding: true}); err != nil {
		return err
	}
	if err = g.top.Host.Do(provision); err != nil {
		return err
	}
	if g.backend, err = startChild(g.top.Backend1, anyProcessor, "backend"); err != nil {
		return err
	}
	if _, err := g.backend.line(); err != nil {
		return err
	}
	return f(g)
}

// provision gives the namespace of the caller enough ports. Ten thousand flows need as many
// ports for the clients and for each proxy. Proxies are published on ports below, because the
// port of a client is in TIME_WAIT for a minute. So are ports of proxies that close their
// connections to the backend, and finding a free port then takes a hundred times as long;
// without a bound on TIME_WAIT the last peer of a round would pay for the others.
func provision() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("26000 65000"), 0),
		os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("4096"), 0))
}

func (g *rig) close() error {
	for _, cmd := range slices.Clone(g.running) {
		g.kill(cmd)
	}
	var err error
	if g.backend != nil {
		err = g.backend.end()
	}
	if g.top != nil {
		if closeErr := g.top.Close(); err == nil {
			err = closeErr
		}
	}
	_ = os.RemoveAll(g.dir)
	return err
}

// port returns a port that no peer has had.
func (g *rig) port() int {
	g.next++
	return g.next - 1
}

// run starts a program in the host's namespace, until kill.
func (g *rig) run(cmd *exec.Cmd) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	cmd.ExtraFiles = []*os.File{null} // docker-proxy reports to descriptor 3
	if err := g.top.Host.Do(cmd.Start); err != nil {
		return err
	}
	g.running = append(g.running, cmd)
	return nil
}

// kill ends a program, its children first.
func (g *rig) kill(cmd *exec.Cmd) {
	i := slices.Index(g.running, cmd)
	if i < 0 {
		return
	}
	g.running = slices.Delete(g.running, i, i+1)
	tree := family(cmd.Process.Pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, pid := range tree[1:] {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// readiness bounds the wait for a program to be ready.
const readiness = 20 * time.Second

// await tries until it succeeds.
func await(what string, try func() error) error {
	for end := time.Now().Add(readiness); ; time.Sleep(time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// answers waits until a peer answers.
func (g *rig) answers(p *peer, proto string) error {
	return await(p.name+" to answer", func() error {
		return g.top.Host.Do(func() error { return echoes(proto, p.addr) })
	})
}

// swallowed asks the backend for the number of datagrams swallowed since the last time.
func (g *rig) swallowed() (count float64, err error) {
	err = g.top.Host.Do(func() error {
		c, err := net.Dial("tcp", netip.AddrPortFrom(backend(), backendPort).String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte{askCount}); err != nil {
			return err
		}
		_, err = fmt.Fscan(c, &count)
		return err
	})
	return count, err
}

// family returns a process and all its descendants, itself first.
func family(pid int) []int {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []int{pid}
	}
	for _, e := range entries {
		if child, err := strconv.Atoi(e.Name()); err == nil {
			if f := stat(child); f != nil {
				parent, _ := strconv.Atoi(f[1])
				children[parent] = append(children[parent], child)
			}
		}
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree
}

// stat returns the fields of /proc/PID/stat after the name, from field 3 of proc(5) on; nil
// if there is no such process.
func stat(pid int) []string {
	b := readFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, ok := bytes.Cut(b, []byte(") "))
	if !ok {
		return nil
	}
	return strings.Fields(string(after))
}

// pids are the processes of a peer.
func (p *peer) pids() []int {
	var all []int
	for _, cmd := range p.roots {
		all = append(all, family(cmd.Process.Pid)...)
	}
	return all
}

// cpu is the processor time of a peer so far, in seconds, including that of its children
// that have ended: fields 14 to 17 of proc(5), in ticks of 10 ms (USER_HZ).
func (p *peer) cpu() float64 {
	ticks := 0.0
	for _, pid := range p.pids() {
		f := stat(pid)
		if f == nil {
			continue
		}
		for _, field := range f[11:15] {
			n, _ := strconv.ParseFloat(field, 64)
			ticks += n
		}
	}
	return ticks / 100
}

// pss is a peer's proportional set size in bytes: shared pages are divided among processes.
func (p *peer) pss() float64 {
	total := 0.0
	for _, pid := range p.pids() {
		total += smaps(pid, "Pss")
	}
	return total
}

// smaps is a field of proc_pid_smaps(5), in bytes.
func smaps(pid int, kind string) (bytes float64) {
	for line := range strings.Lines(string(readFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)))) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == kind+":" {
			n, _ := strconv.ParseFloat(f[1], 64)
			bytes += n * 1024
		}
	}
	return bytes
}

// files is how many descriptors a peer has open.
func (p *peer) files() float64 {
	total := 0
	for _, pid := range p.pids() {
		if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
			total += len(entries)
		}
	}
	return float64(total)
}

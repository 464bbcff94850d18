// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/internal/lab"
)

// benchDataplane measures the cost of forwarding packets to a backend. Everything runs on
// one processor: packets are then forwarded in the time of their sender, nobody waits, and
// the rate is the cost of the whole path, independent of the scheduler.
func benchDataplane(rep *report, s settings) error {
	qs := asked([]question{
		{name: "conns", load: load{Kind: "conns", Workers: 1}, scale: 1, unit: 1},
		{name: "handshakes", load: load{Kind: "handshakes", Workers: 1}, scale: 1, unit: 1},
		{name: "udp", load: load{Kind: "udp-rr", Workers: 1, Size: 64}, scale: 1, unit: 1},
	}, s.only)
	for i := range qs {
		q := &qs[i]
		switch q.name {
		case "conns":
			q.rate = rep.table("New connections that are forwarded, one byte there and back", "1/s")
			q.perUnit = rep.table("Processor time for each, of client, host and backend together", seconds)
		case "handshakes":
			q.rate = rep.table("Connections that are forwarded, reset once they stand", "1/s")
			q.p50 = rep.table("The first packet of a flow and its answer, median latency", seconds)
			q.p99 = rep.table("The first packet of a flow and its answer, 99th percentile", seconds)
			q.p50.note("opening the socket is part of it")
		case "udp":
			q.rate = rep.table("UDP requests of 64 bytes that are forwarded, one flow", "1/s")
			q.perUnit = rep.table("Processor time for each UDP request, of client, host and backend together", seconds)
		}
	}
	dir, err := os.MkdirTemp("", "nftnat-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var tables []*table
	for _, q := range qs {
		tables = append(tables, q.rate)
	}
	ways := waysThrough(dir, s, tables...)
	for _, w := range ways { // the order of the tables, whichever way is measured first
		for _, q := range qs {
			for _, r := range q.tables() {
				r.expect(w.name)
			}
		}
	}
	// Each round has another order: what the kernel has to clean up after one way should not
	// always slow down the same other.
	shuffle := rand.New(rand.NewPCG(1, 2))
	for range s.dataplaneRounds {
		for _, i := range shuffle.Perm(len(ways)) {
			if err := measureWay(qs, ways[i], s.dataplaneSeconds); err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
		}
	}
	for _, q := range qs {
		for _, r := range q.tables() {
			if r == q.p99 {
				continue // the 99th percentile differs more between rounds than between ways
			}
			r.compare(wayOne, wayHand)
			r.compare(wayFull(s), wayOne)
			r.compare(wayRange, wayMiddle)
		}
	}
	return nil
}

// tables returns the tables of a question.
func (q *question) tables() []*table {
	return slices.DeleteFunc([]*table{q.rate, q.p50, q.p99, q.perUnit}, func(r *table) bool { return r == nil })
}

// settled is the time in which the kernel removes earlier namespaces and tables.
const settled = 100 * time.Millisecond

// measureWay asks all questions about one way. It builds new namespaces, because nothing
// removes the hooks that iptables (legacy) leaves in one.
func measureWay(qs []question, w way, duration float64) (err error) {
	p := &dataplane{processor: runtime.NumCPU() - 1}
	p.softirqs, _ = pidOf(fmt.Sprintf("ksoftirqd/%d", p.processor))
	defer func() { err = errors.Join(err, p.close()) }()
	if p.top, err = lab.Build(lab.Options{Parts: lab.PartBackend1, Forwarding: true}); err != nil {
		return err
	}
	if p.backend, err = startChild(p.top.Backend1, p.processor, "backend"); err != nil {
		return err
	}
	if _, err := p.backend.line(); err != nil {
		return err
	}
	undo, err := w.set(p.top.Host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	err = p.top.Host.Do(func() (err error) {
		p.flows, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.answers(w); err != nil {
		return err
	}
	time.Sleep(settled)
	for _, q := range qs {
		if err := p.ask(&q, w, duration); err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
	}
	return nil
}

// dataplane is the namespaces of these measurements.
type dataplane struct {
	top       *lab.Topology
	processor int // that everything runs on
	softirqs  int // pid of ksoftirqd of that processor; 0: not visible
	backend   *child
	flows     *conntrack.Conn
}

func (p *dataplane) close() error {
	var errs []error
	if p.flows != nil {
		errs = append(errs, p.flows.Close())
	}
	if p.backend != nil {
		errs = append(errs, p.backend.end())
	}
	if p.top != nil {
		errs = append(errs, p.top.Close())
	}
	return errors.Join(errs...)
}

// answers waits until the backend answers this way, after which neighbours are known.
func (p *dataplane) answers(w way) error {
	for _, proto := range []string{"tcp", "udp"} {
		err := await(proto+" to "+w.frontend.String(), func() error {
			return p.top.Client.Do(func() error { return echoes(proto, w.frontend.String()) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// echoes exchanges one byte.
func echoes(proto, addr string) error {
	c, err := net.DialTimeout(proto, addr, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	buf := []byte{askEcho}
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err = c.Read(buf)
	return err
}

// ask makes one measurement, after deleting all conntrack entries.
func (p *dataplane) ask(q *question, w way, duration float64) error {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		if _, err := p.flows.Delete(conntrack.Filter{Proto: proto}, nil); err != nil {
			return err
		}
	}
	l := q.load
	l.Addr, l.Seconds = w.frontend.String(), duration
	if l.Kind != "udp-rr" {
		l.Ports = w.ports
	}
	before := p.cpu()
	m, err := apply(p.top.Client, p.processor, l)
	if err != nil {
		return err
	}
	q.rate.add(w.name, m.Rate*q.scale)
	if q.p50 != nil {
		q.p50.add(w.name, m.P50)
		q.p99.add(w.name, m.P99)
	}
	if q.perUnit != nil {
		q.perUnit.add(w.name, (m.CPU+p.cpu()-before)/(m.Rate*duration/q.unit))
	}
	return nil
}

// cpu is the processor time of the backend and of ksoftirqd so far, in seconds.
func (p *dataplane) cpu() float64 {
	total := processorTime(p.backend.cmd.Process.Pid)
	if p.softirqs != 0 {
		total += processorTime(p.softirqs)
	}
	return total
}

// pidOf finds a process by its name.
func pidOf(name string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(entries, func(e os.DirEntry) bool {
		return string(readFile("/proc/"+e.Name()+"/comm")) == name+"\n"
	})
	if i < 0 {
		return 0, os.ErrNotExist
	}
	var pid int
	_, err = fmt.Sscan(entries[i].Name(), &pid)
	return pid, err
}

// way is a way from a client to the backend.
type way struct {
	name     string
	frontend netip.AddrPort
	ports    int // connections go to so many ports from frontend on in turn; 0: to frontend
	// set makes the way in the host's namespace and returns a function that removes it.
	set func(*lab.NS) (undo func() error, err error)
}

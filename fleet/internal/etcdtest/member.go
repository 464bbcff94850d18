// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// token is of no cluster but those of tests.
const token = "etcdtest"

// Member is a process of etcd in a namespace. Its methods may be called from several
// goroutines at once. To cut it off, see [lab.LAN.Cut].
type Member struct {
	NS       *lab.NS
	Name     string // etcd1
	Endpoint string // http://192.0.2.11:2379

	cluster    *Cluster
	tb         testing.TB
	program    string // of etcd
	nftProgram string
	peer       string           // the address for other members
	data       string           // the directory of its files
	files      files            // of TLS
	client     *clientv3.Client // of this member alone

	mu      sync.Mutex
	process *labtest.Process // nil: was killed
}

// Start starts the member, with the files it had when it was killed. It does not wait until
// the member answers: see [Cluster.AwaitReady].
func (m *Member) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		return
	}
	args := []string{
		"--name", m.Name, "--data-dir", m.data,
		"--listen-client-urls", m.Endpoint, "--advertise-client-urls", m.Endpoint,
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer,
		"--initial-cluster", m.cluster.initial(), "--initial-cluster-token", token,
		"--logger", "zap", "--log-outputs", "stderr", "--log-level", "warn",
	}
	o := m.cluster.options
	if o.Election != 0 {
		args = append(args, "--election-timeout", fmt.Sprint(o.Election.Milliseconds()), "--heartbeat-interval", fmt.Sprint(o.Election.Milliseconds()/10))
	}
	if o.Quota != 0 {
		args = append(args, "--quota-backend-bytes", fmt.Sprint(o.Quota))
	}
	if o.TLS {
		args = append(args, "--client-cert-auth", "--trusted-ca-file", m.files.ca, "--cert-file", m.files.cert, "--key-file", m.files.key)
	}
	m.process = labtest.StartCmd(m.tb, m.NS, exec.Command(m.program, args...))
}

// Running reports whether the member was started and not killed since.
func (m *Member) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process != nil
}

// Kill ends the member by SIGKILL.
func (m *Member) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		m.process.Kill()
		m.process = nil
	}
}

// Stop suspends the member by SIGSTOP, with its connections open.
func (m *Member) Stop() error { return m.signal(unix.SIGSTOP) }

// Continue ends what Stop began.
func (m *Member) Continue() error { return m.signal(unix.SIGCONT) }

func (m *Member) signal(s unix.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return fmt.Errorf("send %v to %s: it does not run", s, m.Name)
	}
	return m.process.Signal(s)
}

// Isolate cuts the member off from the other members, and not from clients.
func (m *Member) Isolate() error {
	return m.nft("add table inet isolated; " +
		"add chain inet isolated in { type filter hook input priority 0; }; add rule inet isolated in tcp dport 2380 drop; add rule inet isolated in tcp sport 2380 drop; " +
		"add chain inet isolated out { type filter hook output priority 0; }; add rule inet isolated out tcp dport 2380 drop; add rule inet isolated out tcp sport 2380 drop")
}

// Rejoin ends what Isolate began.
func (m *Member) Rejoin() error { return m.nft("delete table inet isolated") }

func (m *Member) nft(rules string) error {
	cmd := exec.Command(m.nftProgram, rules)
	return m.NS.Do(func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft in %s: %w: %s", m.Name, err, out)
		}
		return nil
	})
}

// Output is what the process has written so far: its warnings.
func (m *Member) Output() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return ""
	}
	return m.process.Output()
}

// awaitReady waits until the member answers a read that needs a leader.
func (m *Member) awaitReady(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := m.client.Get(try, "etcdtest")
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

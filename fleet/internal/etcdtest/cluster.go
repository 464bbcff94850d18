// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Options say what [New] starts. Zero fields have the defaults that are named.
type Options struct {
	Members int // 0: three
	Hosts   int // 0: none
	// TLS makes members talk TLS to clients, and ask them for certificates of [Cluster].CA.
	TLS bool
	// Quota is the size in bytes at which the database takes no more; 0: etcd's, 2 GiB.
	Quota int
	// Election is the members' election time-out, which is at most two thirds of the shortest
	// lease; 0: etcd's, 1 s.
	Election time.Duration
}

// Addresses on the LAN: 192.0.2.N and 2001:db8:1::N, in hexadecimal.
const (
	numberClient  = 2
	numberMembers = 11 // and those after it
	numberHosts   = 21 // and those after it
)

// startTime bounds the start of all members; one that is killed later may take as long.
const startTime = 30 * time.Second

// Cluster is etcd on a LAN. Its methods may be called from several goroutines at once, except
// those that take a testing.TB.
type Cluster struct {
	LAN       *lab.LAN
	Members   []*Member
	Hosts     []*lab.NS
	Client    *lab.NS  // a machine that is neither
	Endpoints []string // of all members, as clients are told
	CA        *CA      // nil without TLS

	options Options
	dir     string
}

// New starts a cluster, waits until it answers, and ends it with the test.
func New(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	labtest.Require(tb)
	if o.Members == 0 {
		o.Members = 3
	}
	c := &Cluster{LAN: labtest.NewLAN(tb), options: o, dir: directory(tb)}
	c.Client = labtest.AddMachine(tb, c.LAN, "client", numberClient)
	for i := range o.Hosts {
		c.Hosts = append(c.Hosts, labtest.AddMachine(tb, c.LAN, fmt.Sprintf("host%d", i+1), byte(numberHosts+i)))
	}
	scheme := "http"
	if o.TLS {
		scheme, c.CA = "https", NewCA(tb)
	}
	for i := range o.Members {
		name := fmt.Sprintf("etcd%d", i+1)
		ns := labtest.AddMachine(tb, c.LAN, name, byte(numberMembers+i))
		m := &Member{
			NS: ns, Name: name, cluster: c, tb: tb, program: labtest.Tool(tb, "etcd"), nftProgram: labtest.Tool(tb, "nft"),
			Endpoint: fmt.Sprintf("%s://%s:2379", scheme, ns.V4),
			peer:     fmt.Sprintf("http://%s:2380", ns.V4),
			data:     filepath.Join(c.dir, name),
		}
		if o.TLS {
			m.files = c.CA.write(tb, c.dir, name, c.CA.Server(tb, ns.V4, ns.V6))
		}
		c.Members = append(c.Members, m)
		c.Endpoints = append(c.Endpoints, m.Endpoint)
	}
	for _, m := range c.Members {
		m.client = c.Open(tb, c.Client, m.Endpoint)
		m.Start()
	}
	c.AwaitReady(tb)
	return c
}

// directory makes a directory in memory, if /run is, which labtest covers for tests.
func directory(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/run", "etcdtest-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// Config is how a client inside ns connects to the endpoints; none: to all members. With TLS
// it has a certificate of the name "client".
func (c *Cluster) Config(tb testing.TB, ns *lab.NS, endpoints ...string) clientv3.Config {
	tb.Helper()
	if len(endpoints) == 0 {
		endpoints = c.Endpoints
	}
	var config *tls.Config
	if c.CA != nil {
		config = c.CA.ClientConfig(c.CA.Client(tb, "client"))
	}
	dial := Dialer(ns)
	return clientv3.Config{
		Endpoints: endpoints, TLS: config, DialTimeout: 5 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dial(ctx, "tcp", addr)
		})},
	}
}

// Dialer connects from inside ns.
func Dialer(ns *lab.NS) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return ns.Dial
}

// Open returns a client inside ns, closed when the test ends.
func (c *Cluster) Open(tb testing.TB, ns *lab.NS, endpoints ...string) *clientv3.Client {
	tb.Helper()
	client, err := clientv3.New(c.Config(tb, ns, endpoints...))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			tb.Error(err)
		}
	})
	return client
}

// AwaitReady waits until each member that runs answers a read that needs a leader.
func (c *Cluster) AwaitReady(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), labtest.Stretch(startTime))
	defer cancel()
	for _, m := range c.Members {
		if !m.Running() {
			continue
		}
		if err := m.awaitReady(ctx); err != nil {
			tb.Fatalf("wait for %s: %v", m.Name, err)
		}
	}
}

// Leader is the member that takes itself for the leader; nil: none answers that it is.
func (c *Cluster) Leader(tb testing.TB) *Member {
	tb.Helper()
	for _, m := range c.Members {
		if status, err := c.status(m); err == nil && status.Leader == status.Header.MemberId {
			return m
		}
	}
	return nil
}

func (c *Cluster) status(m *Member) (*clientv3.StatusResponse, error) {
	if !m.Running() {
		return nil, fmt.Errorf("%s does not run", m.Name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return m.client.Status(ctx, m.Endpoint)
}

// MoveLeader makes another member the leader, and returns it.
func (c *Cluster) MoveLeader(tb testing.TB) *Member {
	tb.Helper()
	to, err := c.TryMoveLeader(tb)
	if err != nil {
		tb.Fatal(err)
	}
	return to
}

// TryMoveLeader is [Cluster.MoveLeader] for a cluster in which that may fail, and for any
// goroutine.
func (c *Cluster) TryMoveLeader(tb testing.TB) (*Member, error) {
	tb.Helper()
	from := c.Leader(tb)
	if from == nil {
		return nil, errors.New("move leader: there is none")
	}
	for _, to := range c.Members {
		if to == from {
			continue
		}
		status, err := c.status(to)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err = from.client.MoveLeader(ctx, status.Header.MemberId)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("move leader: %w", err)
		}
		return to, nil
	}
	return nil, errors.New("move leader: no other member answers")
}

// Compact forgets all revisions but the newest, which it returns.
func (c *Cluster) Compact(tb testing.TB) int64 {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := c.Open(tb, c.Client)
	got, err := client.Get(ctx, "x")
	if err != nil {
		tb.Fatalf("compact: %v", err)
	}
	if _, err := client.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		tb.Fatalf("compact: %v", err)
	}
	return got.Header.Revision
}

// Snapshot saves the database as it is, and returns the path of the file.
func (c *Cluster) Snapshot(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "snapshot.db")
	args := append(c.ctlFlags(tb), "--endpoints", c.Members[0].Endpoint, "snapshot", "save", path)
	c.ctl(tb, args...)
	return path
}

// Restore ends all members and starts them on a snapshot, as an operator does who has lost
// the disks: with the names and addresses they had.
func (c *Cluster) Restore(tb testing.TB, snapshot string) {
	tb.Helper()
	for _, m := range c.Members {
		m.Kill()
		if err := os.RemoveAll(m.data); err != nil {
			tb.Fatal(err)
		}
		c.ctl(tb, "snapshot", "restore", snapshot, "--name", m.Name, "--data-dir", m.data,
			"--initial-cluster", c.initial(), "--initial-advertise-peer-urls", m.peer, "--initial-cluster-token", token)
	}
	for _, m := range c.Members {
		m.Start()
	}
	c.AwaitReady(tb)
}

// Disarm ends the alarm of a database that was full.
func (c *Cluster) Disarm(tb testing.TB) {
	tb.Helper()
	c.ctl(tb, append(c.ctlFlags(tb), "--endpoints", strings.Join(c.Endpoints, ","), "alarm", "disarm")...)
}

// Defragment makes the files of all members as small as what is in them.
func (c *Cluster) Defragment(tb testing.TB) {
	tb.Helper()
	c.ctl(tb, append(c.ctlFlags(tb), "--endpoints", strings.Join(c.Endpoints, ","), "defrag")...)
}

func (c *Cluster) ctlFlags(tb testing.TB) []string {
	tb.Helper()
	if c.CA == nil {
		return nil
	}
	f := c.CA.write(tb, c.dir, "ctl", c.CA.Client(tb, "root"))
	return []string{"--cacert", f.ca, "--cert", f.cert, "--key", f.key}
}

func (c *Cluster) ctl(tb testing.TB, args ...string) {
	tb.Helper()
	cmd := exec.Command(labtest.Tool(tb, "etcdctl"), args...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	if r := labtest.Run(tb, c.Client, cmd); r.Code != 0 {
		tb.Fatalf("etcdctl %s: exit status %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
}

// initial is the list of members that each is started with.
func (c *Cluster) initial() string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.Name+"="+m.peer)
	}
	return strings.Join(all, ",")
}

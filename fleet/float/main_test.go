// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/float"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Environment variables of a process that is an agent for one test.
const (
	envAgent     = "NFTNAT_TEST_FLOAT_AGENT" // the name of the host
	envEndpoints = "NFTNAT_TEST_FLOAT_ENDPOINTS"
	envPrefix    = "NFTNAT_TEST_FLOAT_PREFIX"
	envTTL       = "NFTNAT_TEST_FLOAT_TTL"
	envDelay     = "NFTNAT_TEST_FLOAT_DELAY"   // what etcd sends is late by that
	envReceipt   = "NFTNAT_TEST_FLOAT_RECEIPT" // the lease is counted wrongly
)

func TestMain(m *testing.M) {
	if name := os.Getenv(envAgent); name != "" {
		if err := agent(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(labtest.MainWithScratch(m))
}

// agent is the least that an agent is: a lease, and the floating addresses of a host.
func agent(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ttl, err := time.ParseDuration(os.Getenv(envTTL))
	if err != nil {
		return err
	}
	options := store.Options{Endpoints: strings.Split(os.Getenv(envEndpoints), ","), Prefix: os.Getenv(envPrefix)}
	if text := os.Getenv(envDelay); text != "" {
		delay, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		options.Dial = late(delay)
	}
	renewed := func(m *float.Manager, ss *store.Session) { m.Session(ss) }
	if os.Getenv(envReceipt) != "" {
		renewed = func(m *float.Manager, ss *store.Session) { m.Lease(fromReceipt{ss, store.Now()}) }
	}
	var st *store.Store
	for st == nil {
		if st, err = store.Open(ctx, options); err != nil && ctx.Err() != nil {
			return err
		}
	}
	m := float.New(float.Options{Store: st, Host: name, Groups: []string{"edge"}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	go func() { _ = st.Follow(ctx, "", func(u store.Update) error { m.Update(u); return nil }) }()
	go func() {
		for ctx.Err() == nil {
			ss, err := st.Session(ctx, ttl)
			if err != nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			_, _, err = st.Commit(ctx, nil, clientv3.OpPut(st.Key(keys.Host(name)), keys.Agent{Groups: []string{"edge"}}.Format(), clientv3.WithLease(ss.ID())))
			if err == nil {
				_ = ss.Run(ctx, func(time.Duration) { renewed(m, ss) })
			}
			m.Session(nil)
		}
	}()
	_ = m.Run(ctx)
	return st.Close()
}

// fleet is a cluster with agents on its hosts.
type fleet struct {
	*etcdtest.Cluster
	prefix string
	ttl    time.Duration
	agents []*labtest.Process
	store  *store.Store // of the test, in the client's namespace
}

// newFleet starts agents, web1 on the first host, each with a server of its name at port 7000.
func newFleet(t *testing.T, hosts int, ttl time.Duration) *fleet {
	t.Helper()
	f := &fleet{Cluster: etcdtest.New(t, etcdtest.Options{Hosts: hosts}), prefix: keys.Prefix, ttl: ttl, agents: make([]*labtest.Process, hosts)}
	f.store = open(t, f.Cluster, f.Client, f.prefix)
	for i := range hosts {
		labtest.EchoTCP(t, f.Hosts[i], name(i), ":7000")
		f.start(t, i)
	}
	return f
}

// name is that of the agent on a host.
func name(i int) string { return fmt.Sprintf("web%d", i+1) }

// open opens a store in a namespace.
func open(t *testing.T, c *etcdtest.Cluster, ns *lab.NS, prefix string) *store.Store {
	t.Helper()
	dial := func(ctx context.Context, addr string) (net.Conn, error) { return ns.Dial(ctx, "tcp", addr) }
	st, err := store.Open(t.Context(), store.Options{Endpoints: c.Endpoints, Prefix: prefix, Dial: dial})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st
}

// start starts the agent of a host.
func (f *fleet) start(t *testing.T, i int) {
	t.Helper()
	f.agents[i] = startAgent(t, f.Cluster, f.Hosts[i], name(i), f.prefix, f.ttl)
}

func startAgent(t *testing.T, c *etcdtest.Cluster, ns *lab.NS, name, prefix string, ttl time.Duration, more ...string) *labtest.Process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envAgent+"="+name, envEndpoints+"="+strings.Join(c.Endpoints, ","), envPrefix+"="+prefix, envTTL+"="+ttl.String())
	cmd.Env = append(cmd.Env, more...)
	return labtest.StartCmd(t, ns, cmd)
}

// holder waits until a host serves an address, which is none of those that are named, and
// returns its number.
func (f *fleet) holder(t *testing.T, a fmt.Stringer, not ...int) int {
	t.Helper()
	found := -1
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		e, ok, _, err := f.store.Get(ctx, keys.Floats+a.String())
		if err != nil || !ok {
			return false
		}
		h, err := keys.ParseHolder(e.Value)
		if err != nil || !h.Serving {
			return false
		}
		for i := range f.Hosts {
			if h.Host == name(i) {
				found = i
			}
		}
		return found >= 0 && !slices.Contains(not, found)
	}, labtest.Stretch(30*time.Second), 5*time.Millisecond, "no host serves %s", a)
	return found
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func optionsOf(c *etcdtest.Cluster, ns *lab.NS) store.Options {
	return store.Options{Endpoints: c.Endpoints, Dial: func(ctx context.Context, address string) (net.Conn, error) { return ns.Dial(ctx, "tcp", address) }}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(labtest.Stretch(30 * time.Second)); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// A client certificate is wanted by etcd. What is wrong with one is in the error, where etcd's own client has
// its deadline alone.
func TestTLSErrors(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Members: 1, TLS: true})
	good := optionsOf(c, c.Client)
	good.TLS = c.CA.ClientConfig(c.CA.Client(t, "host"))
	s, err := opened(t, good)
	require.NoError(t, err)
	put(t, s, "a", "x")

	other := etcdtest.NewCA(t)
	config := func(certificates ...tls.Certificate) *tls.Config { return c.CA.ClientConfig(certificates...) }
	wrongName := config(c.CA.Client(t, "host"))
	wrongName.ServerName = "etcd.example"
	for _, x := range []struct {
		name   string
		tls    *tls.Config
		scheme string
		says   string
	}{
		{"wrong name", wrongName, "", "x509: "},
		{"unknown authority", other.ClientConfig(c.CA.Client(t, "host")), "", "x509: certificate signed by unknown authority"},
		{"expired", config(c.CA.ClientUntil(t, "host", time.Now().Add(-time.Hour))), "", "the client's certificate expired at "},
		{"of another authority", config(other.Client(t, "host")), "", "it refuses the client's certificate of \"host\""},
		{"none", config(), "", "client certificate, and none is given"},
		{"no TLS", nil, "http", "does it want https?"},
	} {
		o := optionsOf(c, c.Client)
		o.TLS, o.Endpoints = x.tls, []string{strings.Replace(c.Endpoints[0], "https", "http"+map[bool]string{true: "s"}[x.scheme == ""], 1)}
		_, err := store.Open(t.Context(), o)
		require.ErrorIs(t, err, store.ErrUnavailable, x.name)
		require.ErrorContains(t, err, x.says, x.name)
		t.Logf("%s: %v", x.name, err)
	}
}

// A watch whose revisions are compacted lists anew, and so does one that was cut off.
func TestCutOffAndCompacted(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 1})
	s, err := opened(t, optionsOf(c, c.Hosts[0]))
	require.NoError(t, err)
	operator, err := opened(t, optionsOf(c, c.Client))
	require.NoError(t, err)
	put(t, operator, "a/1", "x")
	updates := follow(t, s, "a/")
	require.True(t, next(t, updates).Whole)
	session, err := s.Session(t.Context(), 3*time.Second)
	require.NoError(t, err)

	require.NoError(t, c.LAN.Cut(c.Hosts[0]))
	err = session.Run(t.Context(), func(time.Duration) {})
	require.Error(t, err, "its time has passed without an answer")
	require.False(t, session.Alive())
	for i := range 50 {
		put(t, operator, "a/1", fmt.Sprint(i))
	}
	c.Compact(t)
	require.NoError(t, c.LAN.Reconnect(c.Hosts[0]))
	eventually(t, func() error {
		for {
			select {
			case u := <-updates:
				for _, e := range u.Entries {
					if u.Whole && e.Value == "49" {
						return nil
					}
				}
				for _, ch := range u.Changes {
					if ch.Value == "49" {
						return nil
					}
				}
			default:
				return fmt.Errorf("not told of the last value")
			}
		}
	})
	eventually(t, func() error {
		if err := session.Renew(t.Context()); err != store.ErrLeaseLost { //nolint:errorlint // as it is
			return fmt.Errorf("a lease that has ended is renewed: %w", err)
		}
		return nil
	})
}

// A lease outlives the loss of a member that says nothing: what was asked of it is asked of the next one in time.
func TestSilentMember(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 1})
	s, err := opened(t, optionsOf(c, c.Hosts[0]))
	require.NoError(t, err)
	session, err := s.Session(t.Context(), 6*time.Second)
	require.NoError(t, err)
	leader := c.Leader(t)
	require.NotNil(t, leader)
	for _, m := range c.Members {
		if m != leader {
			require.NoError(t, c.LAN.Cut(m.NS))
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	renewals := 0
	err = session.Run(ctx, func(time.Duration) {
		if renewals++; renewals == 4 { // each of three was asked
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, session.Alive())
}

// Restored from an older snapshot, etcd tells nobody; a follower is told.
func TestRestored(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Members: 1})
	s, err := opened(t, optionsOf(c, c.Client))
	require.NoError(t, err)
	put(t, s, "a/old", "x")
	snapshot := c.Snapshot(t)
	for range 20 {
		put(t, s, "a/new", "x")
	}
	seen := s.Seen()
	updates := follow(t, s, "a/")
	require.Len(t, next(t, updates).Entries, 2)
	c.Restore(t, snapshot)
	c.AwaitReady(t)
	eventually(t, func() error { // any answer shows it
		_, err := s.List(t.Context(), "b/")
		return err
	})
	for {
		u := next(t, updates)
		if u.Whole && u.Restored {
			require.Len(t, u.Entries, 1)
			break
		}
	}
	// A program that did not run meanwhile is told as well.
	o := optionsOf(c, c.Client)
	o.Seen = seen
	later, err := opened(t, o)
	require.NoError(t, err)
	u := next(t, follow(t, later, "a/"))
	require.True(t, u.Whole && u.Restored)
	require.Less(t, later.Seen().Revision, seen.Revision)
}

// With a full database nothing can be written, and everything else goes on.
func TestNoSpace(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Members: 1, Quota: 2 << 20})
	s, err := opened(t, optionsOf(c, c.Client))
	require.NoError(t, err)
	session, err := s.Session(t.Context(), 5*time.Second)
	require.NoError(t, err)
	put(t, s, "hosts/h", "x", clientv3.WithLease(session.ID()))
	big := strings.Repeat("x", 256<<10)
	for i := range 100 {
		if _, _, err = s.Commit(t.Context(), nil, clientv3.OpPut(s.Key("big"), big+fmt.Sprint(i))); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, store.ErrNoSpace)
	require.NoError(t, session.Renew(t.Context()))
	_, found, _, err := s.Get(t.Context(), "hosts/h")
	require.NoError(t, err)
	require.True(t, found)
	_, err = s.Session(t.Context(), 5*time.Second)
	require.ErrorIs(t, err, store.ErrNoSpace)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// etcd starts one member on the loopback of a namespace and returns a store of it, whose calls are
// made in that namespace.
func etcd(t *testing.T) *store.Store {
	t.Helper()
	ns := labtest.NewNS(t, "etcd")
	member(t, ns, t.TempDir())
	s, err := opened(t, store.Options{
		Endpoints: []string{"http://127.0.0.1:2379"},
		Dial:      func(ctx context.Context, address string) (net.Conn, error) { return ns.Dial(ctx, "tcp", address) },
	})
	require.NoError(t, err)
	return s
}

func member(t *testing.T, ns *lab.NS, dir string) {
	t.Helper()
	labtest.Start(t, ns, labtest.Tool(t, "etcd"), "--data-dir", dir, "--log-level", "error")
}

// opened opens a store when etcd answers.
func opened(t *testing.T, o store.Options) (s *store.Store, err error) {
	t.Helper()
	for end := time.Now().Add(labtest.Stretch(20 * time.Second)); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s, err = store.Open(t.Context(), o); err == nil {
			t.Cleanup(func() { s.Close() })
			return s, nil
		}
	}
	return nil, fmt.Errorf("etcd did not start: %w", err)
}

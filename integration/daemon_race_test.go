// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// Every other frontend is for one address, so that it can also conflict with any address.
const (
	raceProcesses = 8
	raceClients   = 64 // of each process
	racePorts     = 500
	raceTurns     = 6 // of each client
	raceFirstPort = 20000
	raceAtOnce    = 24 // calls of each process at a time: a full server closes slow connections
)

// If many processes race for ports, a port has one owner at a time, and in the end the
// kernel holds what they own.
func TestDaemonOwnersRace(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	owners := t.TempDir()
	processes := make([]*labtest.Process, raceProcesses)
	for i := range processes {
		processes[i] = labtest.StartCmd(t, top.Host, child(t, "race", top.Host.Path(), s.socket, owners, fmt.Sprint("process", i)))
	}
	for _, p := range processes {
		require.Zero(t, p.Wait(), p.Output())
	}

	claims, err := os.ReadDir(owners)
	require.NoError(t, err)
	want := map[string]string{}
	for _, claim := range claims {
		owner, err := os.ReadFile(filepath.Join(owners, claim.Name()))
		require.NoError(t, err)
		want[claim.Name()] = string(owner)
	}
	require.NotEmpty(t, want, "nobody kept anything")
	ms, err := s.api.Mappings(context.Background())
	require.NoError(t, err)
	got := map[string]string{}
	for _, m := range ms {
		got[strconv.Itoa(int(m.Frontend.Port()))] = m.Name
	}
	require.Len(t, ms, len(got), "two mappings have one port")
	require.Equal(t, want, got)
	require.Equal(t, len(got), s.status(t).Proxies)
	// As the kernel has it.
	require.Equal(t, texts(ms), published(open(t, top.Host, engine.Options{ReadOnly: true})))
}

// childRace is one of the processes.
func childRace(socket, owners, name string) error {
	failures := make([]error, raceClients)
	var clients sync.WaitGroup
	turns := make(chan struct{}, max(1, raceAtOnce/labtest.Slowdown()))
	for i := range failures {
		clients.Go(func() { failures[i] = raceClient(api.NewClient(socket), turns, owners, fmt.Sprint(name, ".", i)) })
	}
	clients.Wait()
	return errors.Join(failures...)
}

// raceClient publishes ports and makes a file for each, which must not exist. It unpublishes
// half of them.
func raceClient(c *api.Client, turns chan struct{}, owners, name string) error {
	for range raceTurns {
		turns <- struct{}{}
		err := raceTurn(c, owners, name)
		<-turns
		if err != nil {
			return err
		}
	}
	return nil
}

func raceTurn(c *api.Client, owners, name string) error {
	ctx := context.Background()
	port := raceFirstPort + rand.N(racePorts)
	m := nat.Mapping{
		Proto: nat.TCP, Name: fmt.Sprint(name, ".", rand.Uint32()), // so that its own is a conflict too
		Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(port)),
		Backend:  netip.MustParseAddrPort("172.30.0.2:80"),
	}
	if rand.N(2) == 0 {
		m.Frontend = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(port))
	}
	switch _, err := c.Publish(ctx, nat.PublishOptions{}, m); {
	case errors.Is(err, nat.ErrConflict):
		return nil
	case err != nil:
		return err
	}
	claim := filepath.Join(owners, strconv.Itoa(port))
	if err := note(claim, m.Name); err != nil {
		return fmt.Errorf("two have port %d: %w", port, err)
	}
	if rand.N(2) == 0 {
		return nil
	}
	if err := os.Remove(claim); err != nil {
		return err
	}
	_, err := c.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}})
	return err
}

// note makes a file that must not exist.
func note(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		other, _ := os.ReadFile(path)
		return fmt.Errorf("%w: it is of %s", err, other)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

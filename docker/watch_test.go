// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// fakeDocker answers as dockerd does.
type fakeDocker struct {
	mu       sync.Mutex
	networks string
	changed  chan struct{}
}

func (d *fakeDocker) set(networks string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.networks = networks
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *fakeDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	networks, changed := d.networks, d.changed
	d.mu.Unlock()
	switch r.URL.Path {
	case "/networks":
		_, _ = io.WriteString(w, networks)
	case "/events":
		if r.URL.Query().Get("filters") != `{"type":["network"],"event":["create","destroy"]}` {
			http.Error(w, "no filters", http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-changed:
				_, _ = io.WriteString(w, `{"Type":"network"}`+"\n")
				_ = http.NewResponseController(w).Flush()
				d.mu.Lock()
				changed = d.changed
				d.mu.Unlock()
			}
		}
	}
}

// serve listens at a socket, until the returned function is called.
func (d *fakeDocker) serve(t *testing.T, socket string) (end func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	s := &http.Server{Handler: d}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	return func() {
		_ = s.Close()
		<-served
	}
}

// fakeNetworks keeps what is declared.
type fakeNetworks struct {
	mu   sync.Mutex
	have map[string]nat.Network
}

func (f *fakeNetworks) Networks(context.Context) (all []nat.Network, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.have {
		all = append(all, n)
	}
	return all, nil
}

func (f *fakeNetworks) CreateNetwork(_ context.Context, n nat.Network) (nat.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.have[n.Name]; ok {
		return n, nat.ErrConflict
	}
	f.have[n.Name] = n
	return n, nil
}

func (f *fakeNetworks) RemoveNetwork(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.have, name)
	return nil
}

func (f *fakeNetworks) texts() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, n := range f.have {
		all = append(all, fmt.Sprintf("%s %s masquerade=%t guard=%t", n, n.Gateway, !n.NoMasquerade, !n.NoGuard))
	}
	sort.Strings(all)
	return strings.Join(all, "\n")
}

const (
	dockerBridge = `{"Id":"0123456789abcdef","Name":"bridge","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.17.0.0/16"}]},"Options":{"com.docker.network.bridge.default_bridge":"true","com.docker.network.bridge.enable_ip_masquerade":"false"}}`
	dockerDual   = `{"Id":"fedcba9876543210","Name":"dual","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.18.0.0/16","Gateway":"172.18.0.9"},{"Subnet":"fd00:1::/64","Gateway":"fd00:1::1/64"}]}}`
	dockerPlain  = `{"Id":"aaaaaaaaaaaaaaaa","Name":"plain","Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.19.0.0/16"}]},"Options":{"com.docker.network.bridge.enable_ip_masquerade":"false","com.docker.network.bridge.gateway_mode_ipv4":"nat-unprotected"}}`
	dockerOther  = `{"Id":"bbbbbbbbbbbbbbbb","Name":"host","Driver":"host","IPAM":{"Config":[]}},{"Id":"cccccccccccccccc","Name":"none","Driver":"null","IPAM":{"Config":null}}`
)

// Networks are declared as they come and go, also while dockerd is away.
func TestWatch(t *testing.T) {
	networks := &fakeNetworks{have: map[string]nat.Network{}}
	own, err := nat.ParseNetwork("inside", "172.30.0.0/24", "")
	require.NoError(t, err)
	networks.have["inside"] = own.WithDefaults()
	docker := &fakeDocker{networks: "[" + dockerBridge + "," + dockerOther + "]", changed: make(chan struct{})}
	socket := filepath.Join(filepath.Dir(newFakeDaemon(t).socket), "d")
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- Watch{Docker: socket, Networks: networks, Log: slog.New(slog.DiscardHandler)}.Run(ctx)
	}()
	declared := func(want ...string) {
		t.Helper()
		want = append(want, "inside 172.30.0.0/24 172.30.0.1 masquerade=true guard=true")
		require.Eventually(t, func() bool { return networks.texts() == strings.Join(want, "\n") },
			labtest.Stretch(20*time.Second), 5*time.Millisecond, "%s", want)
	}
	const bridge = "docker-0123456789ab 172.17.0.0/16 172.17.0.1 masquerade=true guard=true"
	end := docker.serve(t, socket)
	declared(bridge)
	docker.set("[" + dockerBridge + "," + dockerDual + "," + dockerPlain + "]")
	declared(bridge,
		"docker-aaaaaaaaaaaa 172.19.0.0/16 172.19.0.1 masquerade=false guard=false",
		"docker-fedcba987654 172.18.0.0/16 172.18.0.9 masquerade=true guard=true",
		"docker-fedcba987654-2 fd00:1::/64 fd00:1::1 masquerade=true guard=true")
	end()
	docker.set("[" + dockerBridge + "]")
	end = docker.serve(t, socket)
	declared(bridge)
	docker.set("[]")
	declared()
	cancel()
	require.NoError(t, <-watched)
	end()
}

// A dockerd that has been away is followed again within seconds.
func TestWatchAway(t *testing.T) {
	networks := &fakeNetworks{have: map[string]nat.Network{}}
	docker := &fakeDocker{networks: "[" + dockerBridge + "]", changed: make(chan struct{})}
	socket := filepath.Join(filepath.Dir(newFakeDaemon(t).socket), "d")
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- Watch{Docker: socket, Networks: networks, Log: slog.New(slog.DiscardHandler)}.Run(ctx)
	}()
	time.Sleep(4 * time.Second)
	end := docker.serve(t, socket)
	require.Eventually(t, func() bool { return networks.texts() != "" }, labtest.Stretch(3*time.Second), 5*time.Millisecond)
	cancel()
	require.NoError(t, <-watched)
	end()
}

// Whatever dockerd says of its networks, what is declared is valid.
func FuzzNetworks(f *testing.F) {
	for _, text := range []string{dockerBridge, dockerDual, dockerPlain, "{}", `{"Id":"0123456789ab","Driver":"bridge","IPAM":{"Config":[{"Subnet":"::ffff:1.2.3.4/96"}]}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var d network
		if json.Unmarshal(text, &d) != nil {
			return
		}
		all, _ := d.networks()
		for _, n := range all {
			require.NoError(t, n.Validate())
		}
	})
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/internal/unixhttp"
	"github.com/nftnat/nftnat/nat"
)

// Watch configures a Watcher.
type Watch struct {
	// Docker is the socket of dockerd. Empty: DefaultSocket.
	Docker string
	// Networks declares networks; an *api.Client does.
	Networks Networks
	// Log is not nil.
	Log *slog.Logger
}

// DefaultSocket is where dockerd answers.
const DefaultSocket = "/run/docker.sock"

// Networks declares networks.
type Networks interface {
	Networks(ctx context.Context) ([]nat.Network, error)
	CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
}

// Run declares the networks of Docker's bridges, as it comes to know them, and removes those that
// are gone, until ctx is done. While dockerd does not answer, networks stay as they are. The error is
// nil.
//
// A network has the name of its id. Where Docker masquerades, so does the network; its published
// ports alone can be reached from outside and from other networks.
func (w Watch) Run(ctx context.Context) error {
	w.Docker = cmp.Or(w.Docker, DefaultSocket)
	c := client{w.Docker}
	said := ""
	for pause := firstRetry; ctx.Err() == nil; {
		began := time.Now()
		err := w.follow(ctx, &c)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lastRetry {
			pause = firstRetry
		}
		if text := err.Error(); text != said {
			w.Log.Warn("networks of Docker are not followed", "error", err)
			said = text
		}
		sleep(ctx, pause)
		pause = min(2*pause, lastRetry)
	}
	return nil
}

// Pauses before dockerd is asked again.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// follow declares networks until dockerd ends or something fails.
func (w Watch) follow(ctx context.Context, c *client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Events from now on: nothing is lost between the list and them.
	events, err := c.get(ctx, `/events?filters={"type":["network"],"event":["create","destroy"]}`)
	if err != nil {
		return err
	}
	changed, ended := make(chan struct{}, 1), make(chan error, 1)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() {
		defer func() { _ = events.Close() }() // was only read
		d := json.NewDecoder(events)
		for {
			var event struct{}
			if err := d.Decode(&event); err != nil {
				ended <- fmt.Errorf("follow events of %s: %w", w.Docker, err)
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-changed:
		case <-timer.C: // what failed before, or was changed by others
		}
		if err := w.declare(ctx, c); err != nil {
			return err
		}
		timer.Reset(time.Minute)
	}
}

// declare makes the networks of Docker those of the daemon.
func (w Watch) declare(ctx context.Context, c *client) error {
	body, err := c.get(ctx, "/networks")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // was only read
	var docs []network
	if err := json.NewDecoder(io.LimitReader(body, maxNetworks)).Decode(&docs); err != nil {
		return fmt.Errorf("read networks of %s: %w", w.Docker, err)
	}
	have, err := w.Networks.Networks(ctx)
	if err != nil {
		return err
	}
	var want []nat.Network
	for i := range docs {
		some, err := docs[i].networks()
		if err != nil {
			w.Log.Warn("a network of Docker cannot be declared", "network", docs[i].Name, "error", err)
		}
		want = append(want, some...)
	}
	var errs []error
	for _, n := range have {
		i := slices.IndexFunc(want, func(x nat.Network) bool { return x.Name == n.Name })
		switch {
		case !strings.HasPrefix(n.Name, networkPrefix):
		case i >= 0 && same(want[i], n):
			want = slices.Delete(want, i, i+1)
		default:
			if err := w.Networks.RemoveNetwork(ctx, n.Name); err != nil && !errors.Is(err, nat.ErrNotFound) {
				errs = append(errs, err)
				continue
			}
			w.Log.Info("removed network", "name", n.Name, "prefix", n.Prefix)
		}
	}
	for _, n := range want {
		if _, err := w.Networks.CreateNetwork(ctx, n); err != nil {
			errs = append(errs, err)
			continue
		}
		w.Log.Info("declared network", "name", n.Name, "prefix", n.Prefix)
	}
	return errors.Join(errs...)
}

// same reports whether a declared network is as wanted.
func same(want, have nat.Network) bool {
	return want.Prefix == have.Prefix && want.Gateway == have.Gateway && want.NoMasquerade == have.NoMasquerade && want.NoGuard == have.NoGuard
}

// networkPrefix is what names of networks of Docker begin with. The begin of the id follows, and
// for a further prefix its number.
const networkPrefix = "docker-"

// maxNetworks bounds the list of networks, in bytes.
const maxNetworks = 64 << 20

// network is what Docker says of a network.
type network struct {
	ID, Name, Driver, Scope string
	Internal                bool
	IPAM                    struct {
		Config []struct{ Subnet, Gateway string }
	}
	Options map[string]string
}

// networks are the networks that are declared for one of Docker: those of bridges.
func (d *network) networks() (all []nat.Network, err error) {
	const (
		masquerade    = "com.docker.network.bridge.enable_ip_masquerade"
		defaultBridge = "com.docker.network.bridge.default_bridge"
		gatewayMode   = "com.docker.network.bridge.gateway_mode_ipv"
	)
	if d.Driver != "bridge" || len(d.ID) < 12 {
		return nil, nil
	}
	for _, c := range d.IPAM.Config {
		n, err := nat.ParseNetwork(networkPrefix+d.ID[:12], c.Subnet, "")
		if err != nil {
			return all, err
		}
		if gateway, err := netip.ParseAddr(c.Gateway); err == nil {
			n.Gateway = gateway
		}
		if len(all) != 0 {
			n.Name = fmt.Sprintf("%s-%d", n.Name, len(all)+1)
		}
		// That of the default bridge is what dockerd makes of it without rules of its own: always false.
		n.NoMasquerade = d.Internal || d.Options[masquerade] == "false" && d.Options[defaultBridge] != "true"
		switch mode := d.Options[gatewayMode+map[bool]string{false: "4", true: "6"}[n.Prefix.Addr().Is6()]]; mode {
		case "routed", "isolated":
			n.NoMasquerade = true
		case "nat-unprotected":
			n.NoGuard = true
		}
		if err := n.WithDefaults().Validate(); err != nil {
			return all, err
		}
		all = append(all, n.WithDefaults())
	}
	return all, nil
}

// client asks dockerd at its socket.
type client struct{ socket string }

// get returns the body of an answer, which ends with the context.
func (c *client) get(ctx context.Context, path string) (io.ReadCloser, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("ask dockerd: %w", err)
	}
	resp, err := unixhttp.Do(ctx, conn, http.MethodGet, escape(path), nil)
	if err != nil {
		return nil, fmt.Errorf("ask dockerd: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("ask dockerd: it answered %s to GET %s", resp.Status, path), resp.Body.Close())
	}
	return resp.Body, nil
}

// escape writes the characters of JSON as a query may have them.
func escape(path string) string {
	return strings.NewReplacer(`{`, "%7B", `}`, "%7D", `"`, "%22", `[`, "%5B", `]`, "%5D").Replace(path)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/internal/unixhttp"
	"github.com/nftnat/nftnat/nat"
)

// dockerSocket is where dockerd listens, unless the environment says otherwise.
const dockerSocket = "/var/run/docker.sock"

// dockerTimer bounds how long dockerd has to answer.
const dockerTimer = 10 * time.Second

// container is a container as GET /containers/json has it, or as "docker inspect" prints it.
type container struct {
	ID    string `json:"Id"`
	Name  string
	Names []string
	Ports []struct {
		IP                      string
		PrivatePort, PublicPort uint16
		Type                    string
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress, GlobalIPv6Address string }
		Ports    map[string][]struct{ HostIP, HostPort string }
	}
}

// portOf is a published port of a container: the address may be invalid, for any.
type portOf struct {
	proto        string
	at           string
	public, port uint16
}

func (im *Import) docker(ctx context.Context, o Options, h *host) error {
	data := o.Data
	if im.From = o.File; o.File == "" {
		path, err := dockerPath(os.Getenv("DOCKER_HOST"))
		if err != nil {
			return err
		}
		im.From = path
		if data, err = askDocker(ctx, path); err != nil {
			return err
		}
		rs, err := readRules(ctx, o)
		if err != nil {
			return err
		}
		if err := h.walk(rs); err != nil {
			return err
		}
	}
	var list []container
	if err := decodeJSON(data, &list); err != nil {
		return o.badFile("it is neither what GET /containers/json answers nor what docker inspect prints: " + err.Error())
	}
	for i := range list {
		if err := im.container(&list[i], h); err != nil {
			return o.badFile(err.Error())
		}
	}
	return nil
}

// dockerPath returns the socket that DOCKER_HOST names.
func dockerPath(env string) (string, error) {
	if env == "" {
		return dockerSocket, nil
	}
	path, ok := strings.CutPrefix(env, "unix://")
	if !ok || path == "" {
		return "", &nat.InvalidError{What: "DOCKER_HOST", Input: env, Reason: "the dockerd of this host is asked, by a Unix socket, as in unix://" + dockerSocket}
	}
	return path, nil
}

// askDocker asks dockerd for its containers.
func askDocker(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerTimer)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("ask dockerd: %w", err)
	}
	answer, err := unixhttp.Do(ctx, c, http.MethodGet, "/containers/json", nil)
	if err != nil {
		return nil, fmt.Errorf("ask dockerd: %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // was only read
	data, err := io.ReadAll(io.LimitReader(answer.Body, MaxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask dockerd: %w", err)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("ask dockerd: %s", answer.Status)
	}
	return data, nil
}

// name is what people call the container.
func (c *container) name() string {
	for _, n := range append([]string{c.Name}, c.Names...) {
		if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// ports returns the published ports.
func (c *container) ports() (list []portOf, err error) {
	for _, p := range c.Ports {
		if p.PublicPort != 0 {
			list = append(list, portOf{p.Type, p.IP, p.PublicPort, p.PrivatePort})
		}
	}
	private := make([]string, 0, len(c.NetworkSettings.Ports))
	for key := range c.NetworkSettings.Ports {
		private = append(private, key)
	}
	slices.Sort(private)
	for _, key := range private {
		text, proto, _ := strings.Cut(key, "/")
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is no port", key)
		}
		for _, b := range c.NetworkSettings.Ports[key] {
			public, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("%q is no port", b.HostPort)
			}
			list = append(list, portOf{proto, b.HostIP, uint16(public), uint16(port)})
		}
	}
	return list, nil
}

// container adds the ports of a container.
func (im *Import) container(c *container, h *host) error {
	list, err := c.ports()
	if err != nil {
		return err
	}
	const short = 12 // digits, as docker ps prints them
	origin := "container " + c.ID[:min(short, len(c.ID))]
	if n := c.name(); n != "" {
		origin = "container " + n
	}
	name := c.name()
	if nat.ValidateName(name) != nil {
		name = ""
	}
	any4 := map[portOf]bool{}
	for _, p := range list {
		if p.at == "" || p.at == "0.0.0.0" {
			any4[portOf{p.proto, "", p.public, p.port}] = true
		}
	}
	for _, p := range list {
		at := netip.IPv4Unspecified()
		if p.at != "" {
			if at, err = netip.ParseAddr(p.at); err != nil {
				return fmt.Errorf("%q is no address", p.at)
			}
		}
		here := fmt.Sprintf("%s: %s->%d/%s", origin, netip.AddrPortFrom(at, p.public), p.port, p.proto)
		proto, err := nat.ParseProto(p.proto)
		if err != nil {
			im.leaveOut(here, otherProtocol)
			continue
		}
		backend, reason := c.backend(h, proto, at, p)
		if reason != "" {
			im.leaveOut(here, reason)
			continue
		}
		both := any4[portOf{p.proto, "", p.public, p.port}] && backend.Is4()
		m := nat.Mapping{Proto: proto, Frontend: netip.AddrPortFrom(at, p.public), Backend: netip.AddrPortFrom(backend, p.port), Name: name}
		if both && at == netip.IPv4Unspecified() && slices.Contains(list, portOf{p.proto, "::", p.public, p.port}) && !c.has6(h, proto, p) {
			// Its proxy serves clients of IPv6 too.
			m.Frontend = netip.AddrPortFrom(netip.Addr{}, p.public)
			here = fmt.Sprintf("%s: 0.0.0.0:%d, [::]:%d->%d/%s", origin, p.public, p.public, p.port, p.proto)
		} else if both && at == netip.IPv6Unspecified() {
			continue
		}
		im.add(Entry{Mapping: m, Origins: []string{here}})
	}
	return nil
}

// has6 reports whether the port leads to an address of IPv6 for clients of IPv6.
func (c *container) has6(h *host, proto nat.Proto, p portOf) bool {
	a, reason := c.backend(h, proto, netip.IPv6Unspecified(), p)
	return reason == "" && a.Is6()
}

// backend returns the address of a container to which its port leads from an address.
func (c *container) backend(h *host, proto nat.Proto, at netip.Addr, p portOf) (netip.Addr, string) {
	var four, six []netip.Addr
	var names []string
	for n := range c.NetworkSettings.Networks {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		network := c.NetworkSettings.Networks[n]
		if a, err := netip.ParseAddr(network.IPAddress); err == nil && a.Is4() {
			four = append(four, a)
		}
		if a, err := netip.ParseAddr(network.GlobalIPv6Address); err == nil && a.Is6() {
			six = append(six, a)
		}
	}
	candidates := four
	if at.Is6() && len(six) != 0 {
		candidates = six
	} else if !at.Is6() && len(four) == 0 {
		candidates = six
	}
	if a, ok := h.winner(proto, at, p.public, netip.Addr.IsValid); ok && slices.Contains(append(four, six...), a) {
		return a, ""
	}
	switch len(candidates) {
	case 0:
		return netip.Addr{}, "the container has no address"
	case 1:
		return candidates[0], ""
	}
	return netip.Addr{}, "the container is in several networks (" + strings.Join(names, ", ") + "), and no rule says by which one the port is published"
}

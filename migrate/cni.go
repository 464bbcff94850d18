// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/nat"
)

// cniResults is where libcni keeps the results of plugins.
const cniResults = "/var/lib/cni/results"

// cniResult is a file of libcni (type cachedInfo of libcni/api.go). The keys of port mappings
// are written in two ways, which encoding/json reads alike.
type cniResult struct {
	Kind           string
	ContainerID    string
	IfName         string
	NetworkName    string
	NetNS          string
	CapabilityArgs struct {
		PortMappings []struct {
			HostPort, ContainerPort int
			Protocol                string
			HostIP                  string
		}
	}
	Result *struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Interface *int
			Address   string
		}
		IP4, IP6 *struct{ IP string } // of versions before 0.3.0
	}
	file string
	made time.Time
}

func (im *Import) cni(ctx context.Context, o Options, h *host) error {
	if im.From = o.File; o.File != "" {
		list, err := decodeResults(o.Data)
		if err != nil {
			return o.badFile(err.Error())
		}
		for i := range list {
			list[i].file = o.File
			im.cniResult(&list[i], h)
		}
		return nil
	}
	im.From = cniResults
	names, err := os.ReadDir(cniResults)
	if err != nil {
		return err
	}
	rs, err := readRules(ctx, o)
	if err != nil {
		return err
	}
	if err := h.walk(rs); err != nil {
		return err
	}
	var list []cniResult
	for _, n := range names {
		if n.IsDir() {
			continue
		}
		path := filepath.Join(cniResults, n.Name())
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) { // it has just gone
			continue
		}
		if err != nil {
			return err
		}
		found, err := decodeResults(data)
		if err != nil {
			im.leaveOut(path, err.Error())
			continue
		}
		info, err := n.Info()
		for _, a := range found {
			if a.file = path; err == nil {
				a.made = info.ModTime()
			}
			list = append(list, a)
		}
	}
	// The plugins have added their rules in this order.
	slices.SortStableFunc(list, func(a, b cniResult) int { return cmp.Or(a.made.Compare(b.made), cmp.Compare(a.file, b.file)) })
	for i := range list {
		im.cniResult(&list[i], h)
	}
	return nil
}

// decodeResults reads one file of libcni, or an array of them.
func decodeResults(data []byte) ([]cniResult, error) {
	var raw json.RawMessage
	if err := decodeJSON(data, &raw); err != nil {
		return nil, fmt.Errorf("it is no result of a CNI plugin: %w", err)
	}
	var list []cniResult
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("it is no result of a CNI plugin: %w", err)
		}
	} else {
		var one cniResult
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, fmt.Errorf("it is no result of a CNI plugin: %w", err)
		}
		list = append(list, one)
	}
	for i := range list {
		if list[i].Result == nil {
			return nil, errors.New("it is no result of a CNI plugin: it has no result")
		}
	}
	return list, nil
}

// cniResult adds the port mappings of a container in a network.
func (im *Import) cniResult(a *cniResult, h *host) {
	const short = 12
	origin := fmt.Sprintf("network %s, container %s", a.NetworkName, a.ContainerID[:min(short, len(a.ContainerID))])
	if len(a.CapabilityArgs.PortMappings) == 0 {
		return
	}
	if h.live && !alive(a.NetNS) {
		im.leaveOut(origin, "its network namespace "+a.NetNS+" is gone: "+a.file+" is stale")
		return
	}
	four, six := a.addresses()
	for _, p := range a.CapabilityArgs.PortMappings {
		at := p.HostIP
		if at == "" {
			at = "*"
		}
		here := fmt.Sprintf("%s: %s:%d->%d/%s", origin, at, p.HostPort, p.ContainerPort, strings.ToLower(p.Protocol))
		proto, err := nat.ParseProto(strings.ToLower(p.Protocol))
		switch {
		case p.HostPort == 0: // it is not published
			continue
		case err != nil:
			im.leaveOut(here, otherProtocol)
			continue
		case p.HostPort < 0 || p.HostPort > 1<<16-1 || p.ContainerPort < 1 || p.ContainerPort > 1<<16-1:
			im.leaveOut(here, "there is no such port")
			continue
		}
		front := netip.Addr{}
		if p.HostIP != "" {
			if front, err = netip.ParseAddr(p.HostIP); err != nil {
				im.leaveOut(here, p.HostIP+" is no address")
				continue
			}
		}
		found := false
		for _, backend := range []netip.Addr{four, six} {
			if !backend.IsValid() || front.IsValid() && front.Is4() != backend.Is4() {
				continue
			}
			host := front
			if !host.IsValid() {
				if host = netip.IPv4Unspecified(); backend.Is6() {
					host = netip.IPv6Unspecified()
				}
			}
			found = true
			if to, ok := h.winner(proto, host, uint16(p.HostPort), func(a netip.Addr) bool { return a.Is4() == backend.Is4() }); ok && to != backend {
				im.leaveOut(here, fmt.Sprintf("its rules send the packets to %s instead", to))
				continue
			}
			im.add(Entry{Origins: []string{here}, Mapping: nat.Mapping{
				Proto: proto, Frontend: netip.AddrPortFrom(host, uint16(p.HostPort)), Backend: netip.AddrPortFrom(backend, uint16(p.ContainerPort)),
			}})
		}
		if !found {
			im.leaveOut(here, "the container has no address of that family")
		}
	}
}

// addresses returns the first address of each family that the container has.
func (a *cniResult) addresses() (four, six netip.Addr) {
	note := func(text string) {
		p, err := netip.ParsePrefix(text)
		addr := p.Addr()
		if err != nil {
			if addr, err = netip.ParseAddr(text); err != nil {
				return
			}
		}
		switch addr = addr.Unmap(); {
		case addr.Is4() && !four.IsValid():
			four = addr
		case addr.Is6() && !six.IsValid():
			six = addr
		}
	}
	for _, ip := range a.Result.IPs {
		if i := ip.Interface; i != nil {
			if *i < 0 || *i >= len(a.Result.Interfaces) {
				continue
			}
			if link := a.Result.Interfaces[*i]; link.Sandbox == "" || link.Name != a.IfName {
				continue
			}
		}
		note(ip.Address)
	}
	if a.Result.IP4 != nil {
		note(a.Result.IP4.IP)
	}
	if a.Result.IP6 != nil {
		note(a.Result.IP6.IP)
	}
	return four, six
}

// alive reports whether a path is that of a network namespace. A file that was one stays when the
// machine has started again.
func alive(path string) bool {
	if path == "" { // older versions do not write it
		return true
	}
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// winner returns the backend to which rules send packets to a port of a frontend.
func (h *host) winner(proto nat.Proto, at netip.Addr, port uint16, of func(netip.Addr) bool) (netip.Addr, bool) {
	for _, c := range h.prerouting {
		if c.Rule.Action != chains.Translate || protoOf(c.Class) != proto || c.Class.Is6() != at.Is6() || port < c.First || port > c.Last || c.Rule.To.Fault != "" {
			continue
		}
		if !at.IsUnspecified() && !c.Dst.Has(at) || at.IsUnspecified() && !c.Dst.Any() {
			continue
		}
		if to := c.Rule.To.Addr; of(to) {
			return to, true
		}
	}
	return netip.Addr{}, false
}

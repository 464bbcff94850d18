// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/nat"
)

// leaseFiles are where miniupnpd may have its leases, besides what its configuration says.
func leaseFiles() []string {
	return []string{"/var/lib/miniupnpd/upnp.leases", "/var/run/miniupnpd.leases", "/var/log/upnp.leases"}
}

const miniupnpdConfig = "/etc/miniupnpd/miniupnpd.conf"

// lease is a line of the file.
type lease struct {
	proto        nat.Proto
	public, port uint16
	backend      netip.Addr
	from         netip.Addr // zero: anyone
	expires      time.Time  // zero: never
	text         string     // the description
}

// miniupnpd imports its leases, and rules of its chains that have none.
func (im *Import) miniupnpd(ctx context.Context, o Options, h *host) error {
	data := o.Data
	if im.From = o.File; o.File == "" {
		im.From = "the rules of this host"
		for _, path := range append(configuredLeases(), leaseFiles()...) {
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			data, im.From = text, path
			break
		}
		rs, err := readRules(ctx, o)
		if err != nil {
			return err
		}
		if err := h.walk(rs); err != nil {
			return err
		}
	}
	if len(data) > MaxFile {
		return o.badFile(fmt.Sprintf("it has more than %d bytes", MaxFile))
	}
	scan := bufio.NewScanner(bytes.NewReader(data))
	for line := 1; scan.Scan(); line++ {
		text := strings.TrimSpace(scan.Text())
		if text == "" {
			continue
		}
		l, reason := parseLease(text)
		if reason != "" {
			return o.badLease(im.From, line, reason)
		}
		im.lease(l, text, o.Now)
	}
	if err := scan.Err(); err != nil {
		return o.badLease(im.From, 1, err.Error())
	}
	im.claims(h, o.Now, func(r *chains.Rule) bool { return Miniupnpd.owns(r) && !im.has(r) })
	return nil
}

func (o Options) badLease(file string, line int, reason string) error {
	o.File = file
	return o.badFile(fmt.Sprintf("line %d: %s", line, reason))
}

// configuredLeases returns the file that the configuration names, if it can be read.
func configuredLeases() []string {
	text, err := os.ReadFile(miniupnpdConfig)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "lease_file="); ok && path != "" {
			return []string{path}
		}
	}
	return nil
}

// parseLease reads PROTO:EXT:ADDR:INT:EXPIRY:DESCRIPTION, or with the client's address, or *,
// behind EXT, as versions after 2.3.11 write it. Descriptions may have colons.
func parseLease(line string) (l lease, reason string) {
	const fields = 6
	f := strings.SplitN(line, ":", fields)
	if len(f) < fields {
		return l, "it is not PROTO:PORT:ADDRESS:PORT:EXPIRY:DESCRIPTION"
	}
	if _, err := netip.ParseAddr(f[3]); err == nil { // there is one field more
		l.from, _ = netip.ParseAddr(f[2])
		more := strings.SplitN(f[5], ":", 2)
		f = []string{f[0], f[1], f[3], f[4], more[0], strings.Join(more[1:], "")}
	}
	var err error
	if l.proto, err = nat.ParseProto(strings.ToLower(f[0])); err != nil {
		return l, fmt.Sprintf("%q is neither TCP nor UDP", f[0])
	}
	public, errPublic := strconv.ParseUint(f[1], 10, 16)
	port, errPort := strconv.ParseUint(f[3], 10, 16)
	if errPublic != nil || errPort != nil || public == 0 || port == 0 {
		return l, fmt.Sprintf("%q and %q are not ports", f[1], f[3])
	}
	l.public, l.port = uint16(public), uint16(port)
	if l.backend, err = netip.ParseAddr(f[2]); err != nil {
		return l, fmt.Sprintf("%q is no address", f[2])
	}
	expires, err := strconv.ParseInt(f[4], 10, 64)
	const last = 1 << 40
	if err != nil || expires < 0 || expires > last {
		return l, fmt.Sprintf("%q is no time", f[4])
	}
	if expires != 0 {
		l.expires = time.Unix(expires, 0).UTC()
	}
	l.text = f[5]
	return l, ""
}

func (im *Import) lease(l lease, line string, now time.Time) {
	at := netip.IPv4Unspecified()
	if l.backend.Is6() {
		at = netip.IPv6Unspecified()
	}
	m := nat.Mapping{Proto: l.proto, Frontend: netip.AddrPortFrom(at, l.public), Backend: netip.AddrPortFrom(l.backend, l.port), Expires: l.expires}
	if !l.expires.IsZero() && !l.expires.After(now) {
		im.leaveOut("lease "+line, "it has expired")
		return
	}
	if nat.ValidateName(l.text) == nil {
		m.Name = l.text
	}
	if l.from.IsValid() && !l.from.IsUnspecified() {
		var err error
		if m.From, err = nat.SourcesOf(netip.PrefixFrom(l.from, l.from.BitLen())); err != nil {
			im.leaveOut("lease "+line, reasonOf(err))
			return
		}
	}
	im.add(Entry{Mapping: m, Origins: []string{"lease " + line}})
}

// has reports whether an entry does already what a rule does.
func (im *Import) has(r *chains.Rule) bool {
	for _, b := range r.Match {
		for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
			for _, i := range im.ports[portKey{proto, b.First}] {
				if im.Entries[i].Mapping.Backend.Addr() == r.To.Addr && im.Entries[i].Mapping.Backend.Port() == r.To.First {
					return true
				}
			}
		}
	}
	return false
}

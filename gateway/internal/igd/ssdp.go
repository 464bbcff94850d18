// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	ssdpPort = 1900
	// maxAge is how long an announcement is valid (UDA 1.1, 1.2.2: at least half an hour).
	maxAge = 30 * time.Minute
	// maxWait is the most that MX counts for (UDA 1.1, 1.3.3).
	maxWait = 5 * time.Second
	// product has the form that UDA 1.1, 1.2.2 asks for. It says nothing about what runs here.
	product = "Linux/5 UPnP/1.1 nftnat/1"

	maxSearch = 2048
	maxFields = 32
)

// A search is an M-SEARCH.
type search struct {
	target string
	wait   time.Duration // MX; negative: there is none, as in a search that is not multicast
}

const searchAll = "ssdp:all"

// parseSearch reads a datagram (UDA 1.1, 1.3.2). What is not well-formed is no search.
func parseSearch(data []byte) (q search, ok bool) {
	if len(data) > maxSearch {
		return q, false
	}
	text, ok := strings.CutPrefix(string(data), "M-SEARCH * HTTP/1.1\r\n")
	if !ok {
		return q, false
	}
	fields := make(map[string]string, 4)
	for n := 0; ; n++ {
		line, rest, ok := strings.Cut(text, "\r\n")
		if !ok || n > maxFields {
			return q, false
		}
		if text = rest; line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || !isValue(value) {
			return q, false
		}
		name = strings.ToUpper(name)
		if _, ok := fields[name]; ok {
			return q, false
		}
		fields[name] = strings.Trim(value, " \t")
	}
	if strings.Trim(text, "\r\n") != "" || fields["MAN"] != `"ssdp:discover"` || fields["ST"] == "" {
		return q, false
	}
	q = search{target: fields["ST"], wait: -1}
	if mx, ok := fields["MX"]; ok {
		n, err := strconv.ParseUint(mx, 10, 16)
		if err != nil {
			return q, false
		}
		q.wait = min(time.Duration(n)*time.Second, maxWait)
	}
	return q, true
}

// isToken returns whether s may be the name of a field (RFC 9110, 5.6.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

func isValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// A match is a target that a search is about, in the version that it asks for.
type match struct {
	target  target
	version int
}

// find returns what a search is about.
func find(all []target, st string) (found []match) {
	for _, t := range all {
		switch {
		case st == searchAll || t.version == 0 && st == t.name:
			found = append(found, match{t, t.version})
		case t.version != 0:
			// A device answers for lower versions too, with the one that it was asked for.
			v, ok := strings.CutPrefix(st, t.name)
			if ok && len(v) == 1 && v[0] >= '1' && int(v[0]-'0') <= t.version {
				found = append(found, match{t, int(v[0] - '0')})
			}
		}
	}
	return found
}

// An advertiser writes messages.
type advertiser struct {
	boot, config string
	port         uint16 // of the description
}

func (a *advertiser) location(local netip.Addr) string {
	return "http://" + netip.AddrPortFrom(local.WithZone(""), a.port).String() + rootPath
}

// answer is the answer to a search (UDA 1.1, 1.3.3), without what may be left out if it would be
// larger than room. Nil: there is no room for it.
func (a *advertiser) answer(m match, local netip.Addr, room int) []byte {
	fields := []string{
		"CACHE-CONTROL", lifetime,
		"EXT", "",
		"LOCATION", a.location(local),
		"SERVER", product,
		"ST", m.target.nt(m.version),
		"USN", m.target.usn(m.version),
		"BOOTID.UPNP.ORG", a.boot,
	}
	for _, more := range [][]string{{"CONFIGID.UPNP.ORG", a.config}, nil} {
		if b := message("HTTP/1.1 200 OK", append(fields, more...)...); len(b) <= room {
			return b
		}
	}
	return nil
}

// lifetime is maxAge.
const lifetime = "max-age=1800"

// alive announces a target to a group (UDA 1.1, 1.2.2).
func (a *advertiser) alive(t target, group netip.AddrPort, local netip.Addr) []byte {
	return message("NOTIFY * HTTP/1.1",
		"HOST", groupHost(group),
		"CACHE-CONTROL", lifetime,
		"LOCATION", a.location(local),
		"NT", t.nt(t.version),
		"NTS", "ssdp:alive",
		"SERVER", product,
		"USN", t.usn(t.version),
		"BOOTID.UPNP.ORG", a.boot,
		"CONFIGID.UPNP.ORG", a.config,
	)
}

// byebye takes an announcement back (UDA 1.1, 1.2.3).
func (a *advertiser) byebye(t target, group netip.AddrPort) []byte {
	return message("NOTIFY * HTTP/1.1",
		"HOST", groupHost(group),
		"NT", t.nt(t.version),
		"NTS", "ssdp:byebye",
		"USN", t.usn(t.version),
		"BOOTID.UPNP.ORG", a.boot,
		"CONFIGID.UPNP.ORG", a.config,
	)
}

// groupHost is the field HOST for a group; UPnP writes IPv6 groups in upper case.
func groupHost(group netip.AddrPort) string { return strings.ToUpper(group.String()) }

func message(first string, fields ...string) []byte {
	b := make([]byte, 0, 512)
	b = append(b, first...)
	for i := 0; i < len(fields); i += 2 {
		b = append(b, "\r\n"...)
		b = append(b, fields[i]...)
		b = append(b, ':')
		if fields[i+1] != "" {
			b = append(b, ' ')
			b = append(b, fields[i+1]...)
		}
	}
	return append(b, "\r\n\r\n"...)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
)

// Version is that of the InternetGatewayDevice.
type Version uint8

// The versions.
const (
	V1 Version = iota + 1
	V2
)

// String returns what --igd takes: "v1".
func (v Version) String() string { return "v" + strconv.Itoa(int(v)) }

const (
	deviceURN  = "urn:schemas-upnp-org:device:"
	serviceURN = "urn:schemas-upnp-org:service:"
)

// A device of the tree has one service and, except the last, one device.
type device struct {
	name    string // of its type: InternetGatewayDevice
	version int
	udn     string // uuid:...
	service *service
}

// A service is a set of actions and the state variables that they are about.
type service struct {
	name      string // of its type: WANIPConnection
	version   int
	id        string
	path      string // what its URLs begin with
	actions   []action
	variables []variable
	device    *device
}

func (d *device) urn() string  { return urn(deviceURN, d.name, d.version) }
func (s *service) urn() string { return urn(serviceURN, s.name, s.version) }

func (s *service) description() string { return s.path + ".xml" }
func (s *service) events() string      { return s.path + "/events" }

func urn(kind, name string, version int) string { return kind + name + ":" + strconv.Itoa(version) }

// newTree returns the devices, the root first. Their UDNs follow from the seed.
func newTree(v Version, seed string) []*device {
	tree := []*device{
		{name: "InternetGatewayDevice", version: int(v), service: layer3Forwarding()},
		{name: "WANDevice", version: int(v), service: commonInterfaceConfig()},
		{name: "WANConnectionDevice", version: int(v), service: ipConnection(v)},
	}
	for _, d := range tree {
		d.udn = "uuid:" + uuid(sha256.Sum256([]byte(d.name+" "+seed)))
		d.service.device = d
	}
	return tree
}

// uuid makes a UUID of version 8 (RFC 9562 section 5.8).
func uuid(b [32]byte) string {
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// A target is what can be searched for and is announced.
type target struct {
	name    string // with the version, if there is one, left out
	version int    // zero: it has none
	udn     string
}

const rootDevice = "upnp:rootdevice"

// targets returns those of a tree, the most useful first: an answer to a search for everything
// may have room for one only.
func targets(tree []*device) []target {
	root := tree[0]
	all := []target{
		{deviceURN + root.name + ":", root.version, root.udn},
		{rootDevice, 0, root.udn},
	}
	for _, d := range slices.Backward(tree) {
		all = append(all, target{serviceURN + d.service.name + ":", d.service.version, d.udn})
		if d != root {
			all = append(all, target{deviceURN + d.name + ":", d.version, d.udn})
		}
		all = append(all, target{d.udn, 0, d.udn})
	}
	return all
}

// nt is the target as it is announced, or as it is searched for with a lower version.
func (t target) nt(version int) string {
	if t.version == 0 {
		return t.name
	}
	return t.name + strconv.Itoa(version)
}

// usn is the unique service name that belongs to nt.
func (t target) usn(version int) string {
	if t.name == t.udn {
		return t.udn
	}
	return t.udn + "::" + t.nt(version)
}

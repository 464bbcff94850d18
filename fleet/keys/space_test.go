// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"net/netip"
	"testing"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

func TestSpaceKeys(t *testing.T) {
	six := keys.PortPool(nat.UDP, netip.MustParseAddr("2001:db8::1"))
	for key, want := range map[string]keys.SpaceKey{
		keys.Space("in.side"):       {Pool: "in.side"},
		keys.Block("in.side", 1023): {Pool: "in.side", IsBlock: true, Index: 1023},
		keys.Block(six, 0):          {Pool: "udp:2001:db8::1", IsBlock: true},
		keys.SpaceClosed:            {},
		keys.SpaceHost("web1"):      {},
	} {
		if got, ok := keys.ParseSpaceKey(key); !ok || got != want {
			t.Errorf("%s is %+v, %v; want %+v", key, got, ok, want)
		}
	}
	for _, bad := range []string{"desired/all", "space/", "space//block/1", "space/n/block/", "space/n/block/01", "space/n/block/-1", "space/n/other"} {
		if got, ok := keys.ParseSpaceKey(bad); ok {
			t.Errorf("%s is %+v", bad, got)
		}
	}
}

func TestPortPools(t *testing.T) {
	for _, text := range []string{"tcp:192.0.2.1", "udp:2001:db8::1"} {
		p, a, ok := keys.ParsePortPool(text)
		if !ok || keys.PortPool(p, a) != text {
			t.Errorf("%s is %s %s, %v", text, p, a, ok)
		}
	}
	for _, bad := range []string{"", "tcp", "sctp:192.0.2.1", "tcp:192.0.2.01", "tcp:inside", "in.side"} {
		if p, a, ok := keys.ParsePortPool(bad); ok {
			t.Errorf("%q is %s %s", bad, p, a)
		}
	}
}

func TestBlockValues(t *testing.T) {
	host, nonce, err := keys.ParseBlock(keys.HeldBlock("web1", "a1"))
	if host != "web1" || nonce != "a1" || err != nil {
		t.Error(host, nonce, err)
	}
	if host, _, err = keys.ParseBlock(keys.FreeBlock); host != "" || err != nil {
		t.Error(host, err)
	}
	for _, bad := range []string{"", "web1", "web1 ", "we/b1 a", "web1 7 a", " a"} {
		if _, _, err := keys.ParseBlock(bad); err == nil {
			t.Errorf("%q is a block", bad)
		}
	}
}

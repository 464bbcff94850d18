// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

func TestItemKeyAndBack(t *testing.T) {
	for _, want := range []string{"desired/all/mapping/web", "desired/group/edge/network/in.side", "desired/host/h-1/float/a_b"} {
		i, err := keys.ParseItem(want)
		if err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if got := i.Key(); got != want {
			t.Errorf("%s: comes back as %s", want, got)
		}
	}
}

func TestItemsThatAreNone(t *testing.T) {
	for _, bad := range []string{
		"", "desired/", "desired/all", "desired/all/mapping", "desired/all/mapping/", "desired/all/mapping/a/b",
		"desired/group/mapping/web", "desired/group//mapping/web", "desired/host//mapping/web", "desired/host/a b/mapping/web",
		"desired/host/h/mapping/a:b", "desired/all/mapping/" + strings.Repeat("x", 129), "status/h", "desired/nobody/x/mapping/y",
	} {
		if i, err := keys.ParseItem(bad); !errors.Is(err, nat.ErrInvalid) {
			t.Errorf("%q is %v, %v; want an error", bad, i, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	order := []keys.Scope{keys.OfHost("h"), keys.OfGroup("a"), keys.OfGroup("b"), keys.All()}
	for i, s := range order {
		for j, o := range order {
			if got := s.Precedes(o); got != (i < j) {
				t.Errorf("%s precedes %s: %v", s, o, got)
			}
		}
	}
}

func TestConcerns(t *testing.T) {
	groups := []string{"edge"}
	for s, want := range map[keys.Scope]bool{
		keys.All(): true, keys.OfGroup("edge"): true, keys.OfGroup("core"): false, keys.OfHost("h"): true, keys.OfHost("edge"): false,
	} {
		if got := s.Concerns("h", groups); got != want {
			t.Errorf("%s concerns h: %v", s, got)
		}
	}
}

func TestKeys(t *testing.T) {
	a := netip.MustParseAddr("2001:db8::1")
	for got, want := range map[string]string{
		keys.Host("h"): "hosts/h", keys.Status("h"): "status/h", keys.Float(a): "float/2001:db8::1", keys.FloatEpoch(a): "float-since/2001:db8::1",
		keys.Block("n", 7): "space/n/block/7", keys.Blocks("n"): "space/n/block/",
		keys.OfHost("h").String(): "host h", keys.All().String(): "all", keys.OfGroup("g").String(): "group g",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

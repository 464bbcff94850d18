// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

func TestMappingsAndBack(t *testing.T) {
	for _, want := range []string{
		"8080->172.17.0.2:80",
		"[2001:db8::1]:53->[fd00::2]:53/udp",
		"443->172.17.0.2:443\n8000-8009->172.17.0.2:8000-8009",
		`{mapping: "53->172.17.0.2:53/udp", masquerade: true}`,
	} {
		ms, err := keys.ParseMappings("web", want)
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		for _, m := range ms {
			if m.Name != "fleet:web" {
				t.Errorf("%s is named %q", want, m.Name)
			}
		}
		again, err := keys.ParseMappings("web", keys.FormatMappings(ms))
		if err != nil || len(again) != len(ms) || again[0] != ms[0] {
			t.Errorf("%s comes back as %v, %v", want, again, err)
		}
	}
	for _, bad := range []string{
		"", "#", "nonsense", "0->172.17.0.2:80", "80->172.17.0.2:80\n80->172.17.0.3:80", "{mapping: 1}", `{mapping: "80->172.17.0.2:80", name: other}`,
		"80->172.17.0.2:80\nnetworks:\n  - {name: x, prefix: 10.0.0.0/8}", "{mapping: \"80->172.17.0.2:80\", no: 1}", `"80->172.17.0.2:80`,
	} {
		if ms, err := keys.ParseMappings("web", bad); !errors.Is(err, nat.ErrInvalid) {
			t.Errorf("%q is %v, %v; want an error", bad, ms, err)
		}
	}
	if _, err := keys.ParseMappings(strings.Repeat("x", 58), "80->172.17.0.2:80"); !errors.Is(err, nat.ErrInvalid) {
		t.Errorf("a long name: %v", err)
	}
}

func TestNetworkAndBack(t *testing.T) {
	for _, want := range []string{"{prefix: 172.30.0.0/24}", `{prefix: fd00::/64, gateway: "fd00::9", masquerade: false, guard: false}`} {
		n, err := keys.ParseNetwork("in", want)
		if err != nil || n.Name != "fleet.in" {
			t.Errorf("%s: %v, %v", want, n, err)
			continue
		}
		if again, err := keys.ParseNetwork("in", keys.FormatNetwork(n)); err != nil || again != n {
			t.Errorf("%s comes back as %v, %v", want, again, err)
		}
	}
	for _, bad := range []string{"", "172.30.0.0/24", "{prefix: 172.30.0.1/24}", "{prefix: 172.30.0.0/24}\nmappings: []", "{name: x, prefix: 172.30.0.0/24}", "{", "{}"} {
		if n, err := keys.ParseNetwork("in", bad); !errors.Is(err, nat.ErrInvalid) {
			t.Errorf("%q is %v, %v; want an error", bad, n, err)
		}
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
)

func TestDistinct(t *testing.T) {
	var ports []Port
	for _, text := range []string{
		"5003-5009->172.30.0.2:5003-5009", "80->172.30.0.2:80", "5000-5005->172.30.0.2:5000-5005", "80->172.30.0.2:80",
		"80->172.30.0.2:80/udp", "5004->172.30.0.2:5004", "65535->172.30.0.2:65535", "65530-65535->172.30.0.2:65530-65535",
		"192.0.2.1:80->172.30.0.2:80",
	} {
		m := nattest.Mapping(t, text)
		ports = append(ports, Whole(&m))
	}
	var texts []string
	for _, p := range Distinct(ports) {
		texts = append(texts, p.Mapping().String())
	}
	require.Equal(t, []string{
		"80->172.30.0.2:80", "5000-5005->172.30.0.2:5000-5005", "5006-5009->172.30.0.2:5006-5009",
		"65530-65535->172.30.0.2:65530-65535", "192.0.2.1:80->172.30.0.2:80", "80->172.30.0.2:80/udp",
	}, texts)
	require.Empty(t, Distinct(nil))
}

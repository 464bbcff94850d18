// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestLAN(t *testing.T) {
	labtest.LeakCheck(t)
	lan := labtest.NewLAN(t)
	one, two := labtest.AddMachine(t, lan, "one", 11), labtest.AddMachine(t, lan, "two", 12)
	serve(t, two)
	reach := func() {
		labtest.Reaches(t, one, "tcp", "192.0.2.12:7000", "two")
		labtest.Reaches(t, one, "udp", "[2001:db8:1::c]:7000", "two")
	}
	reach()
	require.NoError(t, lan.Cut(two))
	require.Error(t, labtest.NoAnswer(t, one, "tcp", "192.0.2.12:7000"))
	require.NoError(t, lan.Reconnect(two))
	reach()

	elsewhere, err := lab.New("elsewhere")
	require.NoError(t, err)
	require.ErrorContains(t, lan.Cut(elsewhere), "not a machine of this LAN")
	require.NoError(t, elsewhere.Close())
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPasses(t *testing.T) {
	for _, from := range []string{"", " from 192.0.2.2", " from 172.30.0.3", " from 172.30.0.2", " from 192.0.2.1"} {
		t.Run(from, func(t *testing.T) {
			s := newScene(t, "8080->172.30.0.2:80")
			r := s.ask(t, "8080"+from)
			t.Log(r.Text())
			for _, l := range s.rules.seen {
				t.Log(l)
			}
			require.Equal(t, Passes, r.Verdict, "%s", r.Text())
			require.Equal(t, ByNetfilter, r.Path)
		})
	}
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"testing"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What a packet meets is known when the call returns: the same packet meets the same again.
func TestRepeats(t *testing.T) {
	s := newSite(t)
	n := labtest.RoundsOf(t, envCases, "calls", 5*callsOfScenario, 20*callsOfScenario)
	ends := map[string]int{}
	for i := range n / callsOfScenario {
		sc := s.newScenario(uint64(i + 1))
		if err := s.load(sc, true); err != nil {
			t.Fatal(err)
		}
		for _, c := range sc.clients {
			r, again := s.call(c), s.call(c)
			ends[r.end()]++
			if again.end() != r.end() && !sc.unknowable {
				t.Errorf("seed %d: %s: %s and then %s\n%s", sc.seed, c, r, again, sc)
			}
		}
	}
	t.Logf("%v; refused %v", ends, s.refused)
}

// end is what became of a packet, in words.
func (r result) end() string {
	switch {
	case r.absent:
		return "no address"
	case r.answered:
		return "answered"
	case len(r.seen) > 0:
		return "not answered"
	}
	return "not seen"
}

// envCases is how many packets are sent.
const envCases = "NFTNAT_CASES"

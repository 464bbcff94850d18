// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// TestInterruptedDumps are read again, for a while. The bubble's clock makes the
// pauses free.
func TestInterruptedDumps(t *testing.T) {
	es := ports(10, "web")
	for _, tt := range []struct {
		name string
		// spoil is called with the answers to each dump, and their number.
		spoil func(p *peer, m nlwire.Message, answer []delivery) []delivery
	}{
		{"flag", func(_ *peer, _ nlwire.Message, answer []delivery) []delivery {
			answer[0] = interrupted(answer[0])
			return answer
		}},
		{"flag at the end", func(_ *peer, _ nlwire.Message, answer []delivery) []delivery {
			last := len(answer) - 1
			answer[last] = interrupted(answer[last])
			return answer
		}},
		{"other generation", func(p *peer, _ nlwire.Message, answer []delivery) []delivery {
			p.generation++
			return answer
		}},
		{"dropped", func(_ *peer, _ nlwire.Message, answer []delivery) []delivery {
			return append([]delivery{{err: unix.ENOBUFS}}, answer[1:]...)
		}},
		{"never ended", func(_ *peer, _ nlwire.Message, answer []delivery) []delivery {
			return answer[:len(answer)-1]
		}},
	} {
		for _, times := range []int{1, readAttempts - 1, readAttempts} {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, p := connect(t, sample(), es)
					p.parts = 3
					left := times
					p.onDump = func(m nlwire.Message, answer []delivery) []delivery {
						if left--; left < 0 {
							return answer
						}
						return tt.spoil(p, m, answer)
					}
					before := time.Now()
					got, generation, err := c.Elements(sample(), "tcp4")
					require.Less(t, time.Since(before), time.Second)
					if times == readAttempts {
						require.ErrorIs(t, err, ErrInterrupted)
						require.Nil(t, got)
						left = 3 * readAttempts // sets, chains and rules
						_, err = c.Drift(sample())
						require.ErrorIs(t, err, ErrInterrupted)
						return
					}
					require.NoError(t, err)
					require.Equal(t, es, got)
					require.Equal(t, p.generation, generation)
				})
			})
		}
	}
}

// TestIncompleteDumps are those of which the kernel says nothing: elements are walked
// twice, or passed over, because the walk changed its order between two parts.
func TestIncompleteDumps(t *testing.T) {
	es := ports(12, "web")
	es[11].Timeout = time.Hour
	omit := func(p *peer, m nlwire.Message, answer []delivery) []delivery {
		answer[1] = delivery{data: p.part(m, named(sample(), "tcp4"), es[4:7])}
		return answer
	}
	repeat := func(p *peer, m nlwire.Message, answer []delivery) []delivery {
		answer[1] = delivery{data: p.part(m, named(sample(), "tcp4"), es[3:7])}
		return answer
	}
	for _, tt := range []struct {
		name  string
		count int // what the kernel tells; negative: the truth
		// spoil says what is wrong with each dump, in order; nil: nothing.
		spoil []func(*peer, nlwire.Message, []delivery) []delivery
		dumps int // that it takes
	}{
		{"complete", -1, nil, 1},
		{"passed over", -1, []func(*peer, nlwire.Message, []delivery) []delivery{omit}, 3},
		{"passed over in the proof", 13, []func(*peer, nlwire.Message, []delivery) []delivery{nil, omit}, 2},
		{"ended ones counted", 13, nil, 2},
		{"repeated", -1, []func(*peer, nlwire.Message, []delivery) []delivery{repeat}, 2},
		{"repeated in the proof", 13, []func(*peer, nlwire.Message, []delivery) []delivery{nil, repeat}, 4},
		{"again and again", 13, []func(*peer, nlwire.Message, []delivery) []delivery{omit, nil, omit, nil, repeat}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := connect(t, sample(), es)
				p.parts, p.count = 3, tt.count
				p.onDump = func(m nlwire.Message, answer []delivery) []delivery {
					if i := p.dumps - 1; i < len(tt.spoil) && tt.spoil[i] != nil {
						return tt.spoil[i](p, m, answer)
					}
					return answer
				}
				got, _, err := c.Elements(sample(), "tcp4")
				require.NoError(t, err)
				require.Equal(t, sorted(es), sorted(got))
				require.Equal(t, tt.dumps, p.dumps)
			})
		})
	}
	// In one part nothing can be passed over, and without time-outs nothing ends.
	c, p := connect(t, sample(), es)
	p.count = 100
	_, _, err := c.Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Equal(t, 1, p.dumps)
}

// TestIncompleteDumpOfPrefixes: the kernel counts half of the elements that it lists, so
// that its count proves nothing.
func TestIncompleteDumpOfPrefixes(t *testing.T) {
	es := networks("away4", "1.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8", "4.0.0.0/8", "5.0.0.0/8", "6.0.0.0/8", "7.0.0.0/8", "8.0.0.0/8")
	synctest.Test(t, func(t *testing.T) {
		c, p := connect(t, sample(), es)
		p.parts = 2
		p.onDump = func(m nlwire.Message, answer []delivery) []delivery {
			if p.dumps == 1 { // the first passes half of them over
				answer[1] = delivery{data: p.part(m, named(sample(), "away4"), nil)}
			}
			return answer
		}
		got, _, err := c.Elements(sample(), "away4")
		require.NoError(t, err)
		require.Equal(t, sorted(es), sorted(got))
	})
}

// TestUnreadableDump: what is strange is told, and what is an error leaves nothing of
// the dump unread, which connect checks.
func TestUnreadableDump(t *testing.T) {
	c, p := connect(t, sample(), ports(10, ""))
	p.parts = 3
	p.onDump = func(m nlwire.Message, answer []delivery) []delivery {
		answer[0] = delivery{data: p.part(m, named(sample(), "ports"), []Element{{Key: PortKey(1)}})}
		return answer
	}
	got, _, err := c.Elements(sample(), "tcp4")
	require.NoError(t, err)
	require.Contains(t, got[0].Foreign, "a value of 0 bytes is no")

	p.onDump = func(m nlwire.Message, answer []delivery) []delivery {
		return append(answer[:1], delivery{data: errorMessage(m.Seq, unix.ENOMEM, 0)})
	}
	_, _, err = c.Elements(sample(), "tcp4")
	require.ErrorIs(t, err, unix.ENOMEM)

	p.onDump = nil
	_, _, err = c.Elements(sample(), "tcp4", "nosuch")
	require.ErrorContains(t, err, "list elements: table nftnat has no map or set nosuch")
	p.table = nil
	_, _, err = c.Elements(sample(), "tcp4")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.Drift(sample())
	require.ErrorIs(t, err, fs.ErrNotExist)
}

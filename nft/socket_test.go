// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// How an answer can be lost: dropped when the receive buffer was full, or never sent.
var lost = map[string][]delivery{
	"ENOBUFS":       {{err: unix.ENOBUFS}},
	"ENOBUFS twice": {{err: unix.ENOBUFS}, {err: unix.ENOBUFS}},
	"EAGAIN":        nil,
	"another's":     {{data: errorMessage(0, 0, 0)}, {err: unix.ENOBUFS}},
}

func replace(e Element, comment string, timeout time.Duration) Change {
	to := e
	to.Comment, to.Timeout = comment, timeout
	return Change{Delete: []Element{e}, Add: []Element{to}}
}

// TestLostAnswer: a transaction whose answer was lost has succeeded if, and only if,
// the ruleset shows so.
func TestLostAnswer(t *testing.T) {
	es := ports(10, "web")
	other := sample()
	other.Chains = other.Chains[:1]
	for _, tt := range []struct {
		name string
		do   func(*Conn) error
		// apply does in the peer what the transaction would have done.
		apply func(*peer)
	}{
		{"add", func(c *Conn) error { return c.Update(sample(), Change{Add: ports(12, "web")[10:]}) },
			func(p *peer) { p.elements = ports(12, "web") }},
		{"delete", func(c *Conn) error { return c.Update(sample(), Change{Delete: es[8:]}) },
			func(p *peer) { p.elements = es[:8] }},
		{"replace", func(c *Conn) error { return c.Update(sample(), replace(es[9], "other", 0)) },
			func(p *peer) { p.elements = append(ports(9, "web"), replace(es[9], "other", 0).Add[0]) }},
		{"give a time-out", func(c *Conn) error { return c.Update(sample(), replace(es[9], "web", time.Hour)) },
			func(p *peer) {
				p.elements = append(ports(9, "web"), replace(es[9], "web", time.Hour-3*time.Millisecond).Add[0])
			}},
		{"replace by the same", func(c *Conn) error { return c.Replace(sample(), es, 0) }, nil},
		{"replace elements", func(c *Conn) error { return c.Replace(sample(), es[:3], 0) },
			func(p *peer) { p.elements = es[:3] }},
		{"replace the rules", func(c *Conn) error { return c.Replace(other, es, 0) },
			func(p *peer) { p.table = &other }},
		{"delete the table", func(c *Conn) error { return c.DeleteTable("nftnat") },
			func(p *peer) { p.table = nil }},
	} {
		for how, answers := range lost {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				for _, applied := range []bool{true, false} {
					c, p := connect(t, sample(), es)
					p.onBatch = func(nlwire.Message, []nlwire.Message) []delivery {
						if applied {
							p.generation++
							if tt.apply != nil {
								tt.apply(p)
							}
							p.handle++ // a change of elements does not look at it
						}
						return answers
					}
					err := tt.do(c)
					if applied {
						require.NoError(t, err)
						continue
					}
					require.ErrorIs(t, err, errNoAnswer)
					require.ErrorContains(t, err, "commit transaction: the kernel's answer was lost, and it was not applied")
				}
			})
		}
	}
}

// TestUnreadableAnswer: an answer that cannot be received or read says as little as one
// that was lost.
func TestUnreadableAnswer(t *testing.T) {
	for name, answer := range map[string]delivery{
		"cut short": {data: errorMessage(0, 0, 0)[:18]},
		"ENOMEM":    {err: unix.ENOMEM},
		"EINTR":     {err: unix.EINTR},
		"EEXIST":    {err: unix.EEXIST},
	} {
		t.Run(name, func(t *testing.T) {
			for _, applied := range []bool{true, false} {
				c, p := connect(t, sample(), nil)
				p.onBatch = func(nlwire.Message, []nlwire.Message) []delivery {
					if applied {
						p.elements = ports(1, "web")
					}
					return []delivery{answer}
				}
				err := c.Update(sample(), Change{Add: ports(1, "web")})
				if applied {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, "and it was not applied")
			}
		})
	}
}

// TestLostAnswerOfGuardedChange: at the same generation nothing was done, even if the
// ruleset looks as it should.
func TestLostAnswerOfGuardedChange(t *testing.T) {
	es := ports(10, "web")
	same := Change{Delete: es[9:], Add: es[9:], Generation: 5}
	for _, after := range []uint32{5, 6} {
		c, p := connect(t, sample(), es)
		p.onBatch = func(nlwire.Message, []nlwire.Message) []delivery {
			p.generation = after
			return nil
		}
		err := c.Update(sample(), same)
		if after == 5 {
			require.ErrorIs(t, err, errNoAnswer)
		} else {
			require.NoError(t, err)
		}
	}
}

// TestLostAnswerOverwritten: another process has put a table of its own there, with
// more elements, others, or other rules.
func TestLostAnswerOverwritten(t *testing.T) {
	es := ports(10, "web")
	other := sample()
	other.Chains = other.Chains[:1]
	for name, overwrite := range map[string]func(*peer){
		"more elements":  func(p *peer) { p.elements = es },
		"fewer elements": func(p *peer) { p.elements = es[:3] },
		"other elements": func(p *peer) { p.elements = ports(5, "other") },
		"other rules":    func(p *peer) { p.elements, p.table = es[:5], &other },
		"none":           func(p *peer) { p.table = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t, sample(), nil)
			p.onBatch = func(nlwire.Message, []nlwire.Message) []delivery {
				p.generation, p.handle = p.generation+1, p.handle+1
				overwrite(p)
				return nil
			}
			require.ErrorIs(t, c.Replace(sample(), es[:5], 0), errNoAnswer)
		})
	}
}

// TestLostAnswerExpired: what was added may have ended since.
func TestLostAnswerExpired(t *testing.T) {
	e := ports(1, "")[0]
	e.Timeout = time.Millisecond
	c, p := connect(t, sample(), nil)
	p.onBatch = func(nlwire.Message, []nlwire.Message) []delivery { return nil }
	require.NoError(t, c.Update(sample(), Change{Add: []Element{e}}))
}

// TestLostAnswerUnreadable: when the ruleset cannot be read either, nothing is known,
// and that is what the error says.
func TestLostAnswerUnreadable(t *testing.T) {
	c, p := connect(t, sample(), nil)
	p.onBatch = func(nlwire.Message, []nlwire.Message) []delivery {
		p.table = nil
		return nil
	}
	err := c.Update(sample(), Change{Add: ports(1, "")})
	require.ErrorIs(t, err, errNoAnswer)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestAnswers are those that arrive.
func TestAnswers(t *testing.T) {
	es := ports(3, "web")
	change := Change{Delete: es[:1], Add: es[1:]}
	one := func(seq uint32, errno unix.Errno, behind ...byte) delivery {
		flags := uint16(unix.NLM_F_CAPPED)
		if behind != nil {
			flags = explainedFlags
		}
		return delivery{data: errorMessage(seq, errno, flags, behind...)}
	}
	both := func(ds ...delivery) delivery {
		var all delivery
		for _, d := range ds {
			all.data = append(all.data, d.data...)
		}
		return all
	}
	notification := func() delivery {
		b, at := nlwire.OpenNetfilter(nil, nftType(unix.NFT_MSG_NEWSETELEM), 0, unix.NFPROTO_INET, 0, 0)
		return delivery{data: nlwire.CloseMessage(b, at)}
	}
	for _, tt := range []struct {
		name   string
		answer func(begin, last uint32) []delivery
		want   string // empty: success
		is     error
	}{
		{"acknowledged", func(_, last uint32) []delivery { return []delivery{one(last, 0)} }, "", nil},
		{"to another request", func(begin, last uint32) []delivery {
			return []delivery{one(begin-1, unix.EPERM), one(last+5, unix.EPERM), notification(), one(last, 0)}
		}, "", nil},
		{"one refused", func(begin, last uint32) []delivery {
			return []delivery{one(begin+1, unix.ENOENT), one(last, 0)}
		}, "delete element tcp4 { 1 }: no such file or directory", fs.ErrNotExist},
		{"all refused, in one datagram", func(begin, last uint32) []delivery {
			return []delivery{both(one(begin+1, unix.ENOENT), one(last, unix.EEXIST))}
		}, "delete element tcp4 { 1 }: no such file or directory", unix.ENOENT},
		{"the last refused", func(_, last uint32) []delivery {
			return []delivery{one(last, unix.EEXIST, explanation("", 0)...)}
		}, "add element tcp4: one of 2 elements: file exists", unix.EEXIST},
		{"the kernel's words", func(_, last uint32) []delivery {
			return []delivery{one(last, unix.EINVAL, explanation("no such thing", 0)...)}
		}, "add element tcp4: one of 2 elements: invalid argument (no such thing)", unix.EINVAL},
		{"a refusal, and then no more", func(begin, _ uint32) []delivery {
			return []delivery{one(begin+1, unix.ENOENT), {err: unix.ENOBUFS}}
		}, "delete element tcp4 { 1 }: no such file or directory", unix.ENOENT},
		{"some dropped, the last there", func(_, last uint32) []delivery {
			return []delivery{{err: unix.ENOBUFS}, one(last, 0)}
		}, "", nil},
		{"stale", func(begin, _ uint32) []delivery { return []delivery{one(begin, unix.ERESTART)} },
			"the ruleset has changed since it was read", ErrStale},
		{"not allowed", func(begin, _ uint32) []delivery { return []delivery{one(begin, unix.EPERM)} },
			"commit transaction: operation not permitted", fs.ErrPermission},
		{"out of memory", func(begin, _ uint32) []delivery { return []delivery{one(begin, unix.ENOMEM)} },
			"commit transaction: cannot allocate memory", unix.ENOMEM},
		{"nonsense", func(_, last uint32) []delivery { return []delivery{{data: errorMessage(last, 0, 0)[:18]}} },
			nlwire.ErrMalformed.Error(), nlwire.ErrMalformed},
		{"socket broken", func(uint32, uint32) []delivery { return []delivery{{err: unix.EBADF}} },
			"bad file descriptor", unix.EBADF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := connect(t, sample(), nil)
			p.onBatch = func(begin nlwire.Message, ops []nlwire.Message) []delivery {
				require.Len(t, ops, 2)
				return tt.answer(begin.Seq, ops[1].Seq)
			}
			// Sequence numbers are not all those of a first request.
			_, err := c.Generation()
			require.NoError(t, err)
			err = c.Update(sample(), change)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			require.ErrorIs(t, err, tt.is)
			p.queue = nil // what is behind an error belongs to nobody
		})
	}
}

// failing is a socket that cannot send.
type failing struct{ err error }

func (f failing) Send([]byte) error                 { return f.err }
func (f failing) Receive([]byte, bool) (int, error) { return 0, unix.EAGAIN }
func (f failing) Close() error                      { return f.err }

func TestSendFails(t *testing.T) {
	c := &Conn{socket: failing{unix.EMSGSIZE}, buf: make([]byte, nlwire.LargestDatagram)}
	err := c.Update(sample(), Change{Add: ports(1, "")})
	require.ErrorIs(t, err, unix.EMSGSIZE)
	require.Regexp(t, "^send transaction of [0-9]+ bytes: message too long$", err.Error())
	require.ErrorIs(t, c.Replace(sample(), nil, 0), unix.EMSGSIZE)
	_, _, err = c.Elements(sample(), "tcp4")
	require.ErrorIs(t, err, unix.EMSGSIZE)
	require.EqualError(t, c.Close(), "close netlink socket: message too long")
	require.NoError(t, c.Close())
}

func TestClosed(t *testing.T) {
	c := &Conn{socket: closedSocket{}}
	require.ErrorIs(t, c.Replace(sample(), nil, 0), os.ErrClosed)
	require.ErrorIs(t, c.Update(sample(), Change{Add: ports(1, "")}), os.ErrClosed)
	require.NoError(t, c.Update(sample(), Change{}))
	require.ErrorIs(t, c.DeleteTable("t"), os.ErrClosed)
	_, err := c.Table("t")
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = c.Drift(sample())
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = c.Generation()
	require.EqualError(t, err, "read generation: file already closed")
	_, err = closedSocket{}.Receive(nil, false)
	require.ErrorIs(t, err, os.ErrClosed)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// How many schedules of faults are played, and from which seed on, in a long
// test, unless the environment says otherwise; and how many make one history.
const (
	envSchedules, defaultSchedules = "NFTNAT_SCHEDULES", 2000
	envSeed, defaultSeed           = "NFTNAT_SEED", 2013
	schedulesOfHistory             = 250
)

// mishap is what happens to one call of a socket.
type mishap int

const (
	fails       mishap = iota // with an errno, and what there was to receive is still there
	overruns                  // a datagram is dropped, and ENOBUFS says so
	loses                     // a datagram is dropped, and nobody says so
	cuts                      // a datagram arrives in part
	strays                    // a datagram of another process comes first, which is not heard
	intrudes                  // an answer to somebody else's question comes first
	interrupts                // a dump says that it is none of one state
	mishapCount int    = iota
)

// unlucky is a socket with a kernel at its other end, some of whose calls go wrong.
type unlucky struct {
	socket
	*rand.Rand
	faults map[int]mishap // by which call it is, from 0
	calls  int
	struck []string
}

func (u *unlucky) next() (mishap, bool) {
	m, ok := u.faults[u.calls]
	u.calls++
	return m, ok
}

func (u *unlucky) errno() error {
	return []unix.Errno{
		unix.ENOBUFS, unix.EINTR, unix.EAGAIN, unix.EPERM, unix.ENOMEM, unix.ERESTART, unix.EBUSY, unix.EEXIST,
	}[u.IntN(8)]
}

func (u *unlucky) note(what string, err error) {
	u.struck = append(u.struck, fmt.Sprintf("call %d: %s %v", u.calls-1, what, err))
}

// send fails before the kernel has seen anything: it does not otherwise.
func (u *unlucky) Send(b []byte) error {
	if _, ok := u.next(); ok {
		err := u.errno()
		u.note("send", err)
		return err
	}
	return u.socket.Send(b)
}

func (u *unlucky) Receive(b []byte, _ bool) (int, error) {
	m, ok := u.next()
	if !ok {
		return u.socket.Receive(b, false)
	}
	switch m {
	case fails:
		err := u.errno()
		u.note("receive", err)
		return 0, err
	case strays:
		return 0, nil
	case intrudes:
		return copy(b, errorMessage(0, unix.EPERM, unix.NLM_F_CAPPED)), nil
	case overruns, loses, cuts, interrupts: // happens to a datagram
	}
	n, err := u.socket.Receive(b, false)
	if err != nil {
		return n, err
	}
	switch m {
	case overruns:
		u.note("overrun", nil)
		return 0, unix.ENOBUFS
	case loses:
		// The kernel says so when it drops a part of a dump (netlink_overrun in
		// net/netlink/af_netlink.c).
		if binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_MULTI != 0 {
			break
		}
		u.note("lost", nil)
		return u.socket.Receive(b, false)
	case cuts:
		u.note("cut", nil)
		return withinMessage(b[:n], 1+u.IntN(n-1)), nil
	case interrupts:
		u.note("interrupted", nil)
		binary.NativeEndian.PutUint16(b[6:], binary.NativeEndian.Uint16(b[6:])|unix.NLM_F_DUMP_INTR)
	case fails, strays, intrudes: // has happened
	}
	return n, nil
}

// withinMessage returns where to cut a datagram: there, or a byte before that if a message
// ends there. The kernel never cuts between two without a word: what has no room is told
// by its length (recv(2), MSG_TRUNC), which the socket under this one looks at.
func withinMessage(b []byte, at int) int {
	for end := 0; end < at; {
		end += (int(binary.NativeEndian.Uint32(b[end:])) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if end == at {
			return at - 1
		}
	}
	return at
}

// unfortunate plays one history on a kernel's table.
type unfortunate struct {
	*testing.T
	*rand.Rand
	conn     *Conn
	unlucky  *unlucky
	observer *Conn
	table    Table
	there    []string // the elements, as text
	seen     map[string]int
	what     string
}

// Random requests and transactions meet random faults of the socket: errors of its calls,
// answers that are lost, cut short or somebody else's, dumps that are interrupted. Each
// ends in success, or in an error with nothing changed; what is read is what is there;
// and the next request on the same socket finds nothing in its way.
//
// NFTNAT_SCHEDULES is how many are played, NFTNAT_SEED what the choices begin with.
func TestFaultSchedules(t *testing.T) {
	labtest.Require(t)
	schedules := labtest.RoundsOf(t, envSchedules, "schedules of faults", 300, defaultSchedules)
	seed := labtest.Number(t, envSeed, defaultSeed)
	seen := map[string]int{}
	for first := 0; first < schedules; first += schedulesOfHistory {
		t.Run(fmt.Sprintf("seed %d", seed+first), func(t *testing.T) {
			u := newUnfortunate(t, uint64(seed+first), seen)
			for i := range min(schedulesOfHistory, schedules-first) {
				u.play(i)
			}
		})
	}
	t.Logf("%d schedules: %v", schedules, seen)
	if schedules < defaultSchedules || t.Failed() {
		return
	}
	for _, outcome := range []string{"done", "undone", "read", "not read"} {
		require.Greater(t, seen[outcome], 10, "%s: too few to mean anything", outcome)
	}
}

func newUnfortunate(t *testing.T, seed uint64, seen map[string]int) *unfortunate {
	t.Helper()
	conn, ns := kernel(t)
	source := rand.New(rand.NewPCG(seed, 4))
	u := &unfortunate{T: t, Rand: source, conn: conn, observer: dialIn(t, ns), table: sample(), seen: seen}
	u.unlucky = &unlucky{socket: conn.socket, Rand: source}
	conn.socket = u.unlucky
	var es []Element
	if u.IntN(4) == 0 {
		es = ports(1500, "many") // whose dump takes more than one datagram
	}
	require.NoError(t, conn.Replace(u.table, es, 0))
	u.there = u.truth()
	return u
}

// truth is what the kernel holds, as a socket without faults tells.
func (u *unfortunate) truth() []string {
	u.Helper()
	es, _, err := u.observer.Elements(u.table, "tcp4", "networks4")
	require.NoError(u, err, u.what)
	return sortedTexts(es)
}

func sortedTexts(es []Element) []string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.String()
	}
	slices.Sort(texts)
	return texts
}

// play does one thing with up to three faults, and then looks without any.
func (u *unfortunate) play(i int) {
	u.Helper()
	u.unlucky.faults, u.unlucky.calls, u.unlucky.struck = map[int]mishap{}, 0, nil
	for range []int{1, 1, 1, 2, 3}[u.IntN(5)] {
		u.unlucky.faults[u.IntN(6)] = mishap(u.IntN(mishapCount))
	}
	u.what = fmt.Sprintf("step %d", i)
	if u.IntN(3) == 0 {
		u.read()
	} else {
		u.change()
	}
	u.unlucky.faults = nil
	es, _, err := u.conn.Elements(u.table, "tcp4", "networks4")
	require.NoError(u, err, "%s\nnothing is in the way of the next request", u.what)
	require.Equal(u, u.there, sortedTexts(es), u.what)
}

func (u *unfortunate) did(what string, err error) {
	u.what += fmt.Sprintf(": %s\nfaults %v; struck: %q\nit returned: %v", what, u.unlucky.faults, u.unlucky.struck, err)
}

// read reads the table.
func (u *unfortunate) read() {
	u.Helper()
	if u.IntN(3) == 0 {
		drift, err := u.conn.Drift(u.table)
		u.did("drift", err)
		u.looked(err)
		require.Empty(u, drift, u.what)
		return
	}
	es, _, err := u.conn.Elements(u.table, "tcp4", "networks4")
	u.did("elements", err)
	u.looked(err)
	if err == nil {
		require.Equal(u, u.there, sortedTexts(es), u.what)
	}
}

func (u *unfortunate) looked(err error) {
	u.Helper()
	if err == nil {
		u.seen["read"]++
		return
	}
	u.seen["not read"]++
	require.NotEmpty(u, u.unlucky.struck, u.what)
}

// change makes a transaction.
func (u *unfortunate) change() {
	u.Helper()
	es, _, err := u.observer.Elements(u.table, "tcp4", "networks4")
	require.NoError(u, err)
	change := u.chooseChange(es)
	after := slices.Clone(u.there)
	for _, e := range change.Delete {
		i := slices.Index(after, e.String())
		after = slices.Delete(after, i, i+1)
	}
	for _, e := range change.Add {
		after = append(after, e.String())
	}
	slices.Sort(after)
	switch u.IntN(5) {
	case 0:
		if u.IntN(4) == 0 { // it looks before it sends
			u.unlucky.faults[6+u.IntN(10)] = mishap(u.IntN(mishapCount))
		}
		err = u.conn.Repair(u.table, change, mustTable(u.T, u.observer).Handle)
		u.did(fmt.Sprint("repair ", change), err)
	case 1:
		whole := slices.DeleteFunc(es, func(e Element) bool {
			return slices.ContainsFunc(change.Delete, func(d Element) bool { return d.Set == e.Set && d.Key == e.Key })
		})
		err = u.conn.Replace(u.table, append(whole, change.Add...), 0)
		u.did("replace", err)
	default:
		err = u.conn.Update(u.table, change)
		u.did(fmt.Sprint("update ", change), err)
	}
	now := u.truth()
	switch {
	case err == nil:
		u.seen["done"]++
		require.Equal(u, after, now, u.what)
	case len(u.unlucky.struck) == 1:
		u.seen["undone"]++
		require.Equal(u, u.there, now, u.what)
	default: // reading what has become of it failed as well: it is one of the two
		require.NotEmpty(u, u.unlucky.struck, u.what)
		u.seen["either"]++
		require.Contains(u, [][]string{u.there, after}, now, u.what)
	}
	u.there = now
}

// chooseChange deletes some elements that are there, and adds some with the same keys
// and others.
func (u *unfortunate) chooseChange(es []Element) (ch Change) {
	for range min(u.IntN(3), len(es)) {
		e := es[u.IntN(len(es))]
		if slices.Contains(ch.Delete, e) {
			continue
		}
		ch.Delete = append(ch.Delete, e)
		if again := e; u.IntN(2) == 0 {
			again.Comment = fmt.Sprint("again ", u.IntN(1000))
			ch.Add = append(ch.Add, again)
		}
	}
	fresh := ports(3000, fmt.Sprint("new ", u.IntN(1000)))
	for range u.IntN(3) {
		e := fresh[2000+u.IntN(1000)]
		if !slices.ContainsFunc(append(es, ch.Add...), func(o Element) bool { return o.Set == e.Set && o.Key == e.Key }) {
			ch.Add = append(ch.Add, e)
		}
	}
	return ch
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/float"
	"github.com/nftnat/nftnat/fleet/internal/announce"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// history records operations with the times of their calls and returns.
type history struct {
	mu    sync.Mutex
	begin time.Time
	ops   []porcupine.Operation
}

func newHistory() *history { return &history{begin: time.Now()} }

func (h *history) since(t time.Time) int64 { return int64(t.Sub(h.begin)) }

// add records what was called and has returned.
func (h *history) add(client int, call time.Time, input, output any) {
	h.put(client, h.since(call), h.since(time.Now()), input, output)
}

// unknown records what was called and may take effect at any time since, or never.
func (h *history) unknown(client int, call time.Time, input any) {
	h.put(client, h.since(call), math.MaxInt64, input, nil)
}

func (h *history) put(client int, call, ret int64, input, output any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Call: call, Return: ret, Input: input, Output: output})
}

// check reports whether there is an order of the operations that the model allows.
func (h *history) check(t *testing.T, m porcupine.NondeterministicModel) porcupine.CheckResult {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	model := m.ToModel()
	return porcupine.CheckOperationsTimeout(model, h.ops, labtest.Stretch(20*time.Second))
}

// The model of a floating address: whose key it is, and who has the address.
type (
	// event is the change of the key that comes after so many others. Nobody's: "".
	event struct {
		number int
		holder string
	}
	// present: a host had the address on its interface.
	present struct{ host string }
	// absent: it had not, and had before.
	absent struct{ host string }
	// readHolder is a linearizable read; the output is the holder.
	readHolder struct{}

	owner struct {
		number int
		holder string
		old    string // has handed it over, and has not removed the address yet
	}
)

func floatModel() porcupine.NondeterministicModel {
	return porcupine.NondeterministicModel{
		Init: func() []any { return []any{owner{}} },
		Step: func(state, input, output any) []any {
			s := state.(owner)
			switch in := input.(type) {
			case event:
				if in.number != s.number+1 {
					return nil
				}
				next := owner{number: in.number, holder: in.holder, old: s.old}
				if in.holder != "" && s.holder != "" && in.holder != s.holder {
					next.old = s.holder
				}
				return []any{next}
			case present:
				if in.host != s.holder && in.host != s.old {
					return nil
				}
			case absent:
				if in.host == s.old {
					s.old = ""
				}
			case readHolder:
				if output.(string) != s.holder {
					return nil
				}
			}
			return []any{s}
		},
	}
}

// The model of a key that one of several clients owns at a time.
type (
	acquire struct{ owner string } // the output: whether it did
	release struct{ owner string } // the output: whether it was the owner
	read    struct{}               // the output: the owner
)

func ownerModel() porcupine.NondeterministicModel {
	return porcupine.NondeterministicModel{
		Init: func() []any { return []any{""} },
		Step: func(state, input, output any) []any {
			s := state.(string)
			switch in := input.(type) {
			case acquire:
				return change(s == "", s, in.owner, output)
			case release:
				return change(s == in.owner, s, "", output)
			case read:
				if output.(string) != s {
					return nil
				}
			}
			return []any{s}
		},
	}
}

// change is the step of a conditional change, whose outcome may not be known.
func change(holds bool, before, after string, output any) []any {
	switch {
	case output == nil && holds:
		return []any{after, before} // not carried out, as far as this is concerned
	case output == nil:
		return []any{before}
	case output.(bool) != holds:
		return nil
	case holds:
		return []any{after}
	}
	return []any{before}
}

// subject is what one seed does: three hosts with agents, a floating address, and clients.
type subject struct {
	c       *etcdtest.Cluster
	seed    uint64
	hosts   []*lab.NS
	prefix  string
	addr    netip.Addr
	ttl     time.Duration
	more    []string // environment of agents
	agents  []*labtest.Process
	watched *store.Store
	float   *history
	owners  *history
	// serializable makes reads of the clients' key serializable.
	serializable bool
}

func (s *subject) name(i int) string { return name(i) }

func (s *subject) start(t *testing.T, i int) {
	t.Helper()
	s.agents[i] = startAgent(t, s.c, s.hosts[i], s.name(i), s.prefix, s.ttl, s.more...)
}

// begin starts the agents and everything that records.
func (s *subject) begin(t *testing.T, ctx context.Context, wg *sync.WaitGroup) {
	t.Helper()
	s.float, s.owners = newHistory(), newHistory()
	s.agents = make([]*labtest.Process, len(s.hosts))
	s.watched = open(t, s.c, s.c.Client, s.prefix)
	for i, ns := range s.hosts {
		s.start(t, i)
		s.sample(t, ctx, wg, i, ns)
	}
	wg.Go(func() { s.follow(ctx) })
	wg.Go(func() { s.readHolder(ctx) })
	for i := range 2 {
		st := open(t, s.c, s.hosts[i], s.prefix)
		random := rand.New(rand.NewPCG(s.seed, uint64(i)))
		wg.Go(func() { s.client(ctx, st, i, random) })
	}
	_, err := float.Create(t.Context(), s.watched, keys.OfGroup("edge"), s.addr, lab.MachineLink)
	require.NoError(t, err)
}

// follow records the changes of the key. Each has happened before it is told of.
func (s *subject) follow(ctx context.Context) {
	number, last := 0, int64(0)
	for {
		wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		ch := s.watched.Client().Watch(wctx, s.watched.Key(keys.Float(s.addr)), clientv3.WithRev(last+1))
		for r := range ch {
			for _, e := range r.Events {
				number++
				last = e.Kv.ModRevision
				h, _ := keys.ParseHolder(string(e.Kv.Value))
				s.float.put(0, 0, s.float.since(time.Now()), event{number, h.Host}, nil)
			}
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// readHolder reads the key from a machine that is not cut off.
func (s *subject) readHolder(ctx context.Context) {
	for ctx.Err() == nil {
		call := time.Now()
		rctx, cancel := context.WithTimeout(ctx, time.Second)
		e, found, _, err := s.watched.Get(rctx, keys.Float(s.addr))
		cancel()
		if err == nil {
			holder := ""
			if found {
				h, _ := keys.ParseHolder(e.Value)
				holder = h.Host
			}
			s.float.add(1, call, readHolder{}, holder)
		}
		time.Sleep(150 * time.Millisecond)
	}
}

// sample records whether a host has the address.
func (s *subject) sample(t *testing.T, ctx context.Context, wg *sync.WaitGroup, i int, ns *lab.NS) {
	t.Helper()
	var link *announce.Interface
	require.NoError(t, ns.Do(func() (err error) { link, err = announce.Open(lab.MachineLink); return err }))
	host := s.name(i)
	wg.Go(func() {
		defer func() { _ = link.Close() }()
		was := false
		for ctx.Err() == nil {
			call := time.Now()
			is, err := link.Check(s.addr)
			if err == nil && is {
				s.float.add(2+i, call, present{host}, nil)
			}
			if err == nil && was && !is {
				s.float.add(2+i, call, absent{host}, nil)
			}
			was = is
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// client acquires, reads and releases a key from inside a host that may be cut off.
func (s *subject) client(ctx context.Context, st *store.Store, number int, random *rand.Rand) {
	key := st.Key("owner")
	held, owner := false, ""
	for n := 0; ctx.Err() == nil; n++ {
		call := time.Now()
		switch what := random.IntN(3); {
		case what == 0:
			opts := []clientv3.OpOption{}
			if s.serializable {
				opts = append(opts, clientv3.WithSerializable())
			}
			rctx, cancel := context.WithTimeout(ctx, time.Second)
			resp, err := st.Client().Get(rctx, key, opts...)
			cancel()
			if err == nil {
				value := ""
				if len(resp.Kvs) > 0 {
					value = string(resp.Kvs[0].Value)
				}
				s.owners.add(number, call, read{}, value)
			}
		case !held:
			owner = fmt.Sprintf("client%d-%d", number, n) // a name of its own tells later answers apart
			ok, _, err := st.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}, clientv3.OpPut(key, owner))
			s.done(number, call, acquire{owner}, ok, err)
			held = ok || err != nil
		default:
			ok, _, err := st.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.Value(key), "=", owner)}, clientv3.OpDelete(key))
			s.done(number, call, release{owner}, ok, err)
			// What is not known to be released is tried again under the same name.
			held = err != nil
		}
		time.Sleep(time.Duration(20+random.IntN(120)) * time.Millisecond)
	}
}

func (s *subject) done(number int, call time.Time, input any, ok bool, err error) {
	switch {
	case err == nil:
		s.owners.add(number, call, input, ok)
	case errors.Is(err, store.ErrUnknown):
		s.owners.unknown(number, call, input)
	default: // refused: a full database and the like do not come here
		s.owners.unknown(number, call, input)
	}
}

// fault does one thing to a host, and undoes it.
func (s *subject) fault(t *testing.T, ctx context.Context, random *rand.Rand) {
	t.Helper()
	i := random.IntN(len(s.hosts))
	if h, found, _, err := s.watched.Get(ctx, keys.Float(s.addr)); err == nil && found && random.IntN(4) > 0 {
		holder, _ := keys.ParseHolder(h.Value) // most often it is the holder that it is done to
		for k := range s.hosts {
			if s.name(k) == holder.Host {
				i = k
			}
		}
	}
	pause := time.Duration(1000+random.IntN(2500)) * time.Millisecond
	sleep := func() {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	switch random.IntN(4) {
	case 0:
		_ = s.agents[i].Signal(syscall.SIGSTOP)
		sleep()
		_ = s.agents[i].Signal(syscall.SIGCONT)
	case 1:
		s.agents[i].Kill()
		sleep()
		s.start(t, i)
	case 2:
		_ = s.c.LAN.Cut(s.hosts[i])
		sleep()
		_ = s.c.LAN.Reconnect(s.hosts[i])
	case 3:
		hctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		_ = float.HandOver(hctx, s.watched, s.addr, s.name((i+1)%len(s.hosts)))
		cancel()
	}
}

// run does faults until end.
func (s *subject) run(t *testing.T, ctx context.Context, end time.Time) {
	t.Helper()
	random := rand.New(rand.NewPCG(s.seed, 99))
	for time.Now().Before(end) {
		s.fault(t, ctx, random)
	}
}

// served waits until a host serves the address whose agent is not stopped, and returns its number.
func (s *subject) served(t *testing.T) int {
	t.Helper()
	found := -1
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		e, ok, _, err := s.watched.Get(ctx, keys.Float(s.addr))
		h, _ := keys.ParseHolder(e.Value)
		if err != nil || !ok || !h.Serving {
			return false
		}
		for i, p := range s.agents {
			if s.name(i) == h.Host && !stopped(p.Pid) {
				found = i
			}
		}
		return found >= 0
	}, labtest.Stretch(60*time.Second), 20*time.Millisecond, "seed %d: nobody serves %s", s.seed, s.addr)
	return found
}

// stopped reports whether a process is stopped by a signal.
func stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && strings.HasPrefix(state, "T")
}

// disturb does things to the members of etcd until ctx is done, and leaves them all running.
func disturb(t *testing.T, ctx context.Context, c *etcdtest.Cluster, random *rand.Rand) {
	t.Helper()
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		wait(time.Duration(1500+random.IntN(1500)) * time.Millisecond)
		m := c.Members[random.IntN(len(c.Members))]
		if l := c.Leader(t); l != nil && random.IntN(3) > 0 {
			m = l
		}
		pause := time.Duration(500+random.IntN(1500)) * time.Millisecond
		switch random.IntN(5) {
		case 4:
			_ = m.Isolate()
			wait(pause)
			_ = m.Rejoin()
		case 0:
			m.Kill()
			wait(pause)
			m.Start()
		case 1:
			_ = m.Stop()
			wait(pause)
			_ = m.Continue()
		case 2:
			_ = c.LAN.Cut(m.NS)
			wait(pause)
			_ = c.LAN.Reconnect(m.NS)
		case 3:
			_, _ = c.TryMoveLeader(t)
		}
	}
}

// Floating addresses, and a key that clients own in turn, while hosts are stopped, killed and
// cut off, addresses are handed over, and members of etcd are killed, stopped, cut off, and
// take the lead from one another.
func TestHistories(t *testing.T) {
	seeds := labtest.Number(t, "NFTNAT_FLEET_SEEDS", 50)
	first := labtest.Number(t, "NFTNAT_FLEET_FIRST_SEED", 1)
	const together = 25
	for from := 0; from < seeds; from += together {
		n := min(together, seeds-from)
		t.Run(fmt.Sprintf("%d to %d", first+from, first+from+n-1), func(t *testing.T) { histories(t, uint64(first+from), n) })
	}
}

func histories(t *testing.T, first uint64, n int) {
	t.Helper()
	const hosts, ttl, duration = 3, 2 * time.Second, 10 * time.Second
	c := etcdtest.New(t, etcdtest.Options{Hosts: hosts * n, Election: 500 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var recording, doing sync.WaitGroup
	defer recording.Wait()
	defer cancel()
	var subjects []*subject
	for i := range n {
		seed := first + uint64(i)
		s := &subject{c: c, seed: seed, hosts: c.Hosts[i*hosts : (i+1)*hosts], prefix: fmt.Sprintf("/%d/", seed), ttl: ttl}
		s.addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(200 + i)})
		if i%2 == 1 {
			s.addr = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::f:%x", i+1))
		}
		s.begin(t, ctx, &recording)
		subjects = append(subjects, s)
	}
	faults, stop := context.WithTimeout(ctx, duration)
	defer stop()
	end, _ := faults.Deadline()
	doing.Go(func() { disturb(t, faults, c, rand.New(rand.NewPCG(first, 7))) })
	for _, s := range subjects {
		doing.Go(func() { s.run(t, ctx, end) })
	}
	doing.Wait()
	for _, s := range subjects {
		s.served(t)
	}
	cancel()
	recording.Wait()
	operations := 0
	for _, s := range subjects {
		operations += len(s.float.ops) + len(s.owners.ops)
		s.verify(t)
	}
	t.Logf("%d operations", operations)
}

// verify checks both histories.
func (s *subject) verify(t *testing.T) {
	t.Helper()
	require.Equal(t, porcupine.Ok, s.float.check(t, floatModel()), "seed %d: the history of %s", s.seed, s.addr)
	require.Equal(t, porcupine.Ok, s.owners.check(t, ownerModel()), "seed %d: the history of the clients' key", s.seed)
}

// The check finds reads that are not linearizable: those of a member that the others have gone
// on without.
func TestHistoryOfSerializableReads(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 2})
	for serializable, want := range map[bool]porcupine.CheckResult{false: porcupine.Ok, true: porcupine.Illegal} {
		s := &subject{c: c, hosts: c.Hosts, owners: newHistory(), serializable: serializable}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 2 {
			st := open(t, c, s.hosts[i], fmt.Sprintf("/%v/", serializable))
			random := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() { s.client(ctx, st, i, random) })
		}
		m := c.Members[0]
		require.NoError(t, m.Isolate())
		found := func() bool { return s.owners.check(t, ownerModel()) == want }
		if want == porcupine.Illegal {
			require.Eventually(t, found, labtest.Stretch(30*time.Second), 100*time.Millisecond)
		} else {
			time.Sleep(3 * time.Second)
		}
		require.NoError(t, m.Rejoin())
		cancel()
		wg.Wait()
		require.True(t, found())
		c.AwaitReady(t)
	}
}

// The check finds holders that count the time of their lease from when the answer came: where
// answers are late, such a one still has the address when its key has ended. One that counts
// from when it asked has not.
func TestHistoryOfCountingFromReceipt(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 4})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	// Three quarters of the answers' time-out, a third of the lease.
	more := []string{envDelay + "=1500ms"}
	right := &subject{c: c, hosts: c.Hosts[:2], prefix: "/right/", addr: float4, ttl: 6 * time.Second, more: more}
	wrong := &subject{c: c, hosts: c.Hosts[2:], prefix: "/wrong/", addr: float6, ttl: 6 * time.Second, more: append(more, envReceipt+"=1")}
	subjects := []*subject{right, wrong}
	for _, s := range subjects {
		s.begin(t, ctx, &wg)
	}
	for round := 0; wrong.float.check(t, floatModel()) == porcupine.Ok; round++ {
		require.Less(t, round, 5, "what is wrong was not found")
		var stopped [2]int
		for i, s := range subjects {
			stopped[i] = s.served(t)
			p := s.agents[stopped[i]]
			require.NoError(t, p.Signal(syscall.SIGSTOP))
			defer func() { _ = p.Signal(syscall.SIGCONT) }()
		}
		for _, s := range subjects {
			s.served(t)
		}
		for i, s := range subjects { // it goes on, and may do what it was about to do
			require.NoError(t, s.agents[stopped[i]].Signal(syscall.SIGCONT))
			time.Sleep(time.Second)
			s.agents[stopped[i]].Kill()
			s.start(t, stopped[i])
		}
	}
	require.Equal(t, porcupine.Ok, right.float.check(t, floatModel()))
}

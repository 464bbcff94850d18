// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// claimTimeout is how long mappings of sessions are kept that a daemon has found in the kernel,
// until their processes open sessions again.
const claimTimeout = 30 * time.Second

// claimPause is between two looks whether those processes run: one that is stopped before it has a
// session cannot say so.
const claimPause = time.Second

// sessions are the sessions of a daemon: mappings that last as long as a connection. Their
// processes may outlive a daemon, and it them.
type sessions struct {
	engine *engine.Engine
	log    *slog.Logger
	// changed is api.Options.Changed, for what is unpublished at the end of a session.
	changed func(api.Outcome)
	// waiting are the goroutines that wait for the ends of sessions.
	waiting sync.WaitGroup

	mu sync.Mutex
	// open are those whose clients are connected, by the name of their mappings.
	open map[string]*session
	// unclaimed are names of mappings that were found, whose processes have not come yet.
	unclaimed map[string]process
	// paused says that nothing is unpublished: the engine is another daemon's, or closed.
	paused bool
}

// session is the connection of a process.
type session struct {
	name     string
	conn     *net.UnixConn
	pid, uid int
	// ended is closed when its mappings are unpublished.
	ended chan struct{}
}

func newSessions(e *engine.Engine, log *slog.Logger, changed func(api.Outcome)) *sessions {
	return &sessions{engine: e, log: log, changed: changed, open: map[string]*session{}, unclaimed: map[string]process{}}
}

// publish is api.Options.Sessions.
func (ss *sessions) publish(ctx context.Context, s api.Session) ([]nat.Mapping, error) {
	sockets, err := portSockets(s)
	if err != nil {
		return nil, err
	}
	name := s.Mappings[0].Name
	for {
		done, err := ss.engine.PublishHeld(ctx, nat.PublishOptions{}, sockets, s.Mappings...)
		var conflict *nat.ConflictError
		switch {
		case err == nil:
			return done, ss.begin(&session{name: name, conn: s.Conn, pid: s.PID, uid: s.UID, ended: make(chan struct{})})
		case errors.As(err, &conflict) && ss.dismiss(ctx, conflict.Have.Name):
			continue // a port of a process that has ended
		}
		return nil, err
	}
}

// begin waits for the end of a session from now on. An earlier one of the process, whose
// connection it may have lost, ends without its mappings.
func (ss *sessions) begin(s *session) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.paused {
		return nat.ErrClosed // the mappings stay, and are claimed from the next daemon
	}
	if before := ss.open[s.name]; before != nil {
		_ = before.conn.Close()
	}
	ss.forget(s.name)
	ss.open[s.name] = s
	ss.waiting.Go(func() { ss.await(s) })
	return nil
}

// await unpublishes the mappings of a session at its end.
func (ss *sessions) await(s *session) {
	var b [1]byte
	_, _ = s.conn.Read(b[:]) // whatever it returns, the client says no more
	ss.mu.Lock()
	current := ss.open[s.name] == s
	if current && ss.paused {
		ss.mu.Unlock()
		return // leave or resume
	}
	if current {
		delete(ss.open, s.name)
	}
	ss.mu.Unlock()
	if current {
		ss.remove(context.Background(), s)
	}
	close(s.ended)
	_ = s.conn.Close() // the client waits for it
}

// remove unpublishes what has the name of a session.
func (ss *sessions) remove(ctx context.Context, s *session) {
	ms, err := ss.engine.Remove(ctx, nat.Removal{Name: s.name, Kill: true})
	if errors.Is(err, nat.ErrNotFound) {
		return // somebody has unpublished it
	}
	o := api.Outcome{Operation: api.OpUnpublish, PID: s.pid, UID: s.uid, Mappings: ms}
	if err != nil {
		ss.log.Warn("mappings of a process that has ended stay", "name", s.name, "error", err)
		o.Code, o.Err = api.CodeInternal, err
	}
	ss.changed(o)
}

// dismiss unpublishes the mappings of a name if their process has ended, and reports whether they
// are unpublished.
func (ss *sessions) dismiss(ctx context.Context, name string) bool {
	ss.mu.Lock()
	s := ss.open[name]
	unclaimed := ss.forget(name)
	ss.mu.Unlock()
	switch {
	case s != nil && hungUp(s.conn):
		<-s.ended
		return true
	case s == nil && unclaimed:
		ss.remove(ctx, &session{name: name})
		return true
	}
	return false
}

// forget takes a name from those that nobody has claimed, and reports whether it was one. The caller
// holds mu.
func (ss *sessions) forget(name string) bool {
	p, ok := ss.unclaimed[name]
	if ok {
		delete(ss.unclaimed, name)
		p.close()
	}
	return ok
}

// process is a pidfd (pidfd_open(2)) of a process; negative: it is of another PID namespace.
type process int

// openProcess finds the process that mappings are for; here is this process. False: it runs no longer.
func openProcess(owner, here api.SessionOwner) (p process, runs bool) {
	switch {
	case here.Boot == "":
		return -1, true
	case owner.Boot != here.Boot:
		return -1, false
	case owner.Namespace != here.Namespace:
		return -1, true
	}
	fd, err := unix.PidfdOpen(owner.PID, 0)
	if err != nil {
		return -1, !errors.Is(err, unix.ESRCH)
	}
	return process(fd), true
}

// ended reports whether the process is known to have ended.
func (p process) ended() bool {
	if p < 0 {
		return false
	}
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}, &unix.Timespec{}, nil)
	return n == 1 && err == nil
}

func (p process) close() {
	if p >= 0 {
		_ = unix.Close(int(p)) // frees it whatever it returns
	}
}

// hungUp reports whether the client has closed its side, which the session's goroutine may not
// have seen yet.
func hungUp(c *net.UnixConn) (gone bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true // it is closed
	}
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Ppoll(p, &unix.Timespec{}, nil) // poll(2) is not among the calls that are allowed
		gone = n == 1 && err == nil
	})
	return gone || err != nil
}

// find looks which mappings of the engine are of sessions, and returns the names of those whose
// processes have ended; the others are unclaimed. It is called before the process confines itself.
func (ss *sessions) find(ctx context.Context) (ended []string) {
	ms, err := ss.engine.Mappings(ctx)
	if err != nil {
		ss.log.Warn("mappings of processes that have ended may stay", "error", err)
		return nil
	}
	here, err := api.ThisSessionOwner()
	if err != nil {
		ss.log.Warn("which processes have ended cannot be told", "error", err)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for i := range ms {
		name := ms[i].Name
		owner, ok := api.ParseSessionOwner(name)
		if _, known := ss.unclaimed[name]; !ok || known || ss.open[name] != nil {
			continue
		}
		p, runs := openProcess(owner, here)
		if !runs {
			ended = append(ended, name)
			continue
		}
		ss.unclaimed[name] = p
	}
	return ended
}

// removeAll unpublishes the mappings of processes that have ended.
func (ss *sessions) removeAll(ctx context.Context, names []string) {
	for _, name := range names {
		ss.remove(ctx, &session{name: name})
	}
}

// inherit goes on with sessions of another daemon.
func (ss *sessions) inherit(lent []lentSession) {
	for _, l := range lent {
		nc, err := l.conn()
		if err == nil {
			err = ss.begin(&session{name: l.name, conn: nc, ended: make(chan struct{})})
		}
		if err != nil {
			ss.log.Warn("a session could not be taken over", "name", l.name, "error", err)
		}
	}
}

// run unpublishes what nobody has claimed: when its process has ended, or after claimTimeout.
func (ss *sessions) run(ctx context.Context) error {
	ticker := time.NewTicker(claimPause)
	defer ticker.Stop()
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, name := range ss.unwanted(time.Since(began) >= claimTimeout) {
			ss.dismiss(ctx, name)
		}
	}
}

// unwanted are the names that nobody has claimed and whose processes have ended; over: all that nobody
// has claimed.
func (ss *sessions) unwanted(over bool) (names []string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for name, p := range ss.unclaimed {
		if over || p.ended() {
			names = append(names, name)
		}
	}
	return names
}

// pause has nothing unpublished any more, and returns when nothing is. The connections stay open.
func (ss *sessions) pause() {
	ss.mu.Lock()
	ss.paused = true
	for _, s := range ss.open {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // ends its goroutine
	}
	ss.mu.Unlock()
	ss.waiting.Wait()
}

// resume undoes pause.
func (ss *sessions) resume() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.paused = false
	for _, s := range ss.open {
		_ = s.conn.SetReadDeadline(time.Time{})
		ss.waiting.Go(func() { ss.await(s) })
	}
}

// close closes all connections. The mappings stay.
func (ss *sessions) close() {
	ss.pause()
	for _, s := range ss.open {
		_ = s.conn.Close() // the process opens another session
	}
	clear(ss.open)
	for name := range ss.unclaimed {
		ss.forget(name)
	}
}

// lend calls f with the descriptors of the connections, which stay this process's. They are
// paused.
func (ss *sessions) lend(f func(name string, fd int)) error {
	for name, s := range ss.open {
		raw, err := s.conn.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { f(name, int(fd)) })
		}
		if err != nil {
			return fmt.Errorf("lend session %s: %w", name, err)
		}
	}
	return nil
}

// portSockets says which socket of a session is which mapping's, by their addresses.
func portSockets(s api.Session) (sockets []engine.PortSocket, err error) {
	if len(s.Sockets) > len(s.Mappings) {
		return nil, &nat.InvalidError{What: "session", Input: s.Mappings[0].Name, Reason: "it has more sockets than mappings"}
	}
	for i, fd := range s.Sockets {
		m := &s.Mappings[i]
		sockets = append(sockets, engine.PortSocket{Proto: m.Proto, Frontend: m.Frontend, FD: fd})
	}
	return sockets, nil
}

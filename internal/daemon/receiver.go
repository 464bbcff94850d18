// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/nat"
)

// inheritance is what the predecessor has lent. Nil: there is no predecessor.
type inheritance struct {
	from    handover.Receiver
	sockets engine.Sockets
	api     *lentListener
	scraped *lentListener
	// sessions are those of processes for which something is published.
	sessions []lentSession
	// over says that the predecessor does not go on.
	over bool
}

// lentListener is a listener that this process does not use yet.
type lentListener struct {
	fd      int
	address string
	made    bool // its file was made by a daemon
}

// lentSession is the connection of a session.
type lentSession struct {
	name string
	fd   int
}

// conn makes a connection of the descriptor, which it owns.
func (l lentSession) conn() (*net.UnixConn, error) {
	f := os.NewFile(uintptr(l.fd), l.name)
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no unix socket", c), c.Close())
	}
	return u, nil
}

// takeSessions returns the sessions of the predecessor.
func (i *inheritance) takeSessions() []lentSession {
	if i == nil {
		return nil
	}
	lent := i.sessions
	i.sessions = nil
	return lent
}

func (l *lentListener) close() {
	if l != nil {
		closeDescriptor(l.fd)
	}
}

// closeDescriptor is close(2), which on Linux frees the descriptor whatever it returns.
func closeDescriptor(fd int) { _ = unix.Close(fd) }

// takeOverAttempts bounds how often a handover is asked for: the daemon that is asked may end,
// or hand over to another one, before it has begun.
const takeOverAttempts = 5

// takeOver asks the predecessor for its sockets. Nil: there is none.
func (s *server) takeOver(ctx context.Context) (*inheritance, error) {
	var err error
	for range takeOverAttempts {
		var i *inheritance
		if i, err = s.takeOverOnce(ctx); !errors.Is(err, io.EOF) || ctx.Err() != nil {
			return i, err
		}
	}
	return nil, err
}

// takeOverOnce is one attempt. io.EOF: the predecessor ended before it sent anything.
func (s *server) takeOverOnce(ctx context.Context) (*inheritance, error) {
	nc, err := s.Predecessor(ctx)
	if nc == nil || err != nil {
		return nil, err
	}
	from, err := handover.NewReceiver(nc)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	i := &inheritance{from: from}
	sockets, err := from.Begin(ctx)
	if sortErr := i.sort(sockets); err == nil {
		err = sortErr
	}
	if err == nil || errors.Is(err, io.EOF) && len(sockets) != 0 { // it was killed: part of the sockets is better than none
		return i, nil
	}
	err = fmt.Errorf("take over: %w", err)
	i.end(err)
	return nil, err
}

// engine is what an engine is opened with.
func (i *inheritance) engine() *engine.Sockets {
	if i == nil {
		return nil
	}
	s := i.sockets
	i.sockets = engine.Sockets{} // the engine's, from here on
	return &s
}

// takeListener returns the listener of the API. Nil: there is none.
func (i *inheritance) takeListener(group int) (net.Listener, error) {
	if i == nil || i.api == nil {
		return nil, nil
	}
	l := i.api
	i.api = nil
	if !l.made && group != ownGroup {
		l.close()
		return nil, errForeignSocket()
	}
	return api.Inherit(l.fd, l.address, l.made, group)
}

// takeMetrics returns the listener for metrics, if it is at that address. Nil: it is not.
func (i *inheritance) takeMetrics(address string) *keptListener {
	if i == nil || i.scraped == nil {
		return nil
	}
	want, err := net.ResolveTCPAddr("tcp", address)
	if err != nil || want.String() != i.scraped.address {
		return nil
	}
	f := os.NewFile(uintptr(i.scraped.fd), "metrics")
	i.scraped = nil
	l, err := net.FileListener(f)
	if closeErr := f.Close(); err != nil || closeErr != nil {
		return nil
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil
	}
	return &keptListener{t}
}

// ready says that this process could serve, and returns when it may.
func (i *inheritance) ready(ctx context.Context) error {
	if i == nil {
		return nil
	}
	if err := i.from.Ready(ctx); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	i.over = true
	i.closeListeners()
	return nil
}

// committed says that this process serves the ports, and returns when the predecessor does not
// any more. Changes have to wait for that: until then a port that is unpublished still has the
// predecessor's proxy, and cannot be published again.
func (i *inheritance) committed(log *slog.Logger) {
	if i == nil {
		return
	}
	if err := i.from.Committed(); err != nil {
		log.Warn("the previous daemon may still be running", "error", err)
	}
}

// end closes what this process does not use. If it does not serve, it tells the predecessor why,
// which then goes on.
func (i *inheritance) end(reason error) {
	if i == nil {
		return
	}
	i.closeSockets()
	i.closeListeners()
	if i.over {
		_ = i.from.Close()
		return
	}
	if reason == nil {
		reason = errors.New("it was told to end")
	}
	_ = i.from.Abort(reason) // the caller has the reason
}

// closeListeners closes those that this process does not use.
func (i *inheritance) closeListeners() {
	i.api.close()
	i.scraped.close()
	i.api, i.scraped = nil, nil
}

// closeListener closes a listener at the end of this process. Its file stays if the predecessor
// goes on.
func (i *inheritance) closeListener(l net.Listener) error {
	if i != nil && !i.over {
		return api.Abandon(l)
	}
	return l.Close()
}

func parseFrontend(text string) (netip.AddrPort, error) {
	if port, ok := strings.CutPrefix(text, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), err
	}
	return netip.ParseAddrPort(text)
}

// sort keeps the sockets by what they are. After an error all are closed.
func (i *inheritance) sort(sockets []handover.Socket) error {
	var errs []error
	for _, s := range sockets {
		kind, rest, _ := strings.Cut(s.Name, " ")
		listener := &lentListener{fd: s.FD, address: rest, made: kind == nameMade}
		switch {
		case kind == nameLock && i.sockets.Lock == 0:
			i.sockets.Lock = s.FD
		case (kind == nameMade || kind == nameGiven) && i.api == nil:
			i.api = listener
		case kind == nameMetrics && i.scraped == nil:
			i.scraped = listener
		case kind == nameSession:
			i.sessions = append(i.sessions, lentSession{rest, s.FD})
		case kind == nameProgram:
			i.sockets.Programs = append(i.sockets.Programs, engine.Program{Name: rest, File: os.NewFile(uintptr(s.FD), "program")})
		default:
			if err := i.sortPort(kind, rest, s.FD); err != nil {
				listener.close()
				errs = append(errs, fmt.Errorf("%w: socket %q: %w", handover.ErrMalformed, s.Name, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		i.closeSockets()
		return err
	}
	return nil
}

func (i *inheritance) sortPort(kind, rest string, fd int) error {
	proto, err := nat.ParseProto(kind)
	if err != nil {
		return err
	}
	frontend, err := parseFrontend(rest)
	if err != nil {
		return err
	}
	i.sockets.Ports = append(i.sockets.Ports, engine.PortSocket{Proto: proto, Frontend: frontend, FD: fd})
	return nil
}

// closeSockets closes those of an engine that no engine has taken over.
func (i *inheritance) closeSockets() {
	if i.sockets.Lock != 0 {
		closeDescriptor(i.sockets.Lock)
	}
	for _, p := range i.sockets.Ports {
		closeDescriptor(p.FD)
	}
	for _, p := range i.sockets.Programs {
		_ = p.File.Close()
	}
	for _, s := range i.sessions {
		closeDescriptor(s.fd)
	}
	i.sessions = nil
	i.sockets = engine.Sockets{}
}

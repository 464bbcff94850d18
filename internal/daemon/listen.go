// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/nftnat/nftnat/api"
)

// listen opens the listener of the API: that of the predecessor, or the one that the service
// manager hands over, or a new one.
func (s *server) listen(from *inheritance) (err error) {
	if s.listener, err = from.takeListener(s.group); s.listener != nil || err != nil {
		return err
	}
	handed, err := activation.Listeners()
	switch {
	case err != nil:
		return fmt.Errorf("take sockets of the service manager: %w", err)
	case len(handed) == 0:
		s.listener, err = api.Listen(s.Socket, s.group)
		if err == nil && s.group != ownGroup && unreachable(s.Socket, s.group) {
			s.log.Warn("members of the group cannot reach the socket in its directory", "socket", s.Socket, "group", s.group)
		}
		return err
	case s.group != ownGroup:
		return errForeignSocket()
	case len(handed) == 1 && handed[0] != nil:
		s.listener = handed[0]
		return nil
	}
	return fmt.Errorf("take sockets of the service manager: it hands over %d descriptors, and not one listening socket", len(handed))
}

func errForeignSocket() error {
	return &OptionError{errors.New("--group is for a socket that the daemon makes; SocketGroup= is that of a unit's")}
}

// managed says that the service manager made the socket of the API.
func (s *server) managed() bool {
	_, managed := s.listener.(*net.UnixListener) // package api has a type of its own
	return managed
}

// listenForMetrics opens the listener for metrics, if there is to be one: that of the
// predecessor, if it is at the same address, or a new one.
func (s *server) listenForMetrics(from *inheritance) error {
	if s.Metrics == "" || s.scraped != nil {
		return nil
	}
	if s.scraped = from.takeMetrics(s.Metrics); s.scraped != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.Metrics)
	if err != nil {
		return &OptionError{fmt.Errorf("listen for metrics: %w", err)}
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		return errors.Join(fmt.Errorf("%T is no TCP listener", l), l.Close())
	}
	s.scraped = &keptListener{t}
	return nil
}

// closeListeners closes what the next daemon does not have.
func (s *server) closeListeners(from *inheritance) error {
	var errs []error
	if s.scraped != nil {
		errs = append(errs, s.scraped.TCPListener.Close())
	}
	if s.listener != nil {
		// The API's server has closed it by now, unless the daemon has failed before.
		if err := from.closeListener(s.listener); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// keptListener is a listener that stays open when the server on it ends, so that another
// process, or another server of this one, can go on with it.
type keptListener struct{ *net.TCPListener }

// Accept returns net.ErrClosed after Close.
func (l *keptListener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = net.ErrClosed
	}
	return c, err
}

// Close ends a server's use of the listener.
func (l *keptListener) Close() error { return l.SetDeadline(time.Unix(1, 0)) }

// ownGroup leaves a socket the group of the process.
const ownGroup = -1

// groupID is the number of a group that is given by name or number. Without one it is ownGroup.
func groupID(name string) (int, error) {
	if name == "" {
		return ownGroup, nil
	}
	number := name
	group, err := user.LookupGroup(name)
	switch {
	case err == nil:
		number = group.Gid
	case !errors.As(err, new(user.UnknownGroupError)):
		return 0, fmt.Errorf("look up group %s: %w", name, err)
	}
	// The last number is that which chown(2) takes for none.
	id, err := strconv.ParseUint(number, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, &OptionError{fmt.Errorf("--group %s: there is no such group", name)}
	}
	return int(id), nil
}

// unreachable reports whether the directory of a socket keeps the members of a group from it:
// a directory that existed before the daemon keeps its group.
func unreachable(socket string, group int) bool {
	info, err := os.Stat(filepath.Dir(socket))
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	mine := ok && int(stat.Gid) == group && info.Mode()&0o010 != 0
	return !mine && info.Mode()&0o001 == 0
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// A session publishes mappings that last as long as its connection:
//
//	client                                      server
//	POST /v1/sessions, Upgrade: nftnat-session
//	                                            101 Switching Protocols
//	an array of mappings and a newline, with
//	sockets of their ports (SCM_RIGHTS)
//	                                            {"mappings": …} or {"problem": …} and a newline
//	closes its side, or all of it
//	                                            unpublishes the mappings, and closes its side

// upgradeSession is the protocol to which the connection of a session switches.
const upgradeSession = "nftnat-session"

// Session is a request for a session.
type Session struct {
	// Conn belongs to Options.Sessions unless that returns an error.
	Conn     *net.UnixConn
	Mappings []nat.Mapping
	// Sockets are descriptors of sockets that are bound to the ports of the first mappings. They
	// belong to the caller of Options.Sessions.
	Sockets []int
	// PID and UID are those of an Outcome.
	PID, UID int
}

const (
	maxSession        = 64 << 10 // bytes of its request
	maxSessionSockets = 64
)

// sessionAnswer is the document of a session's answer.
type sessionAnswer struct {
	Mappings []Mapping `json:"mappings,omitempty"`
	Problem  *Problem  `json:"problem,omitempty"`
}

// postSession switches to the protocol of sessions, and passes the session to Options.Sessions.
func (h *handler) postSession(w http.ResponseWriter, c *call) (any, error) {
	if err := upgradable(w, c, upgradeSession, "session"); err != nil {
		return nil, err
	}
	nc, err := h.upgrade(w, c, upgradeSession)
	if nc == nil {
		return nil, err
	}
	ms, err := h.openSession(c, nc)
	var answer sessionAnswer
	if err != nil {
		answer.Problem = problemOf(err)
	} else {
		answer.Mappings = Ranges(ms)
	}
	// A client that has gone ends its session.
	writeErr := writeLine(nc, answer, h.limits.writeTime)
	if err != nil {
		_ = errors.Join(writeErr, nc.Close())
	}
	return nil, nil
}

func (h *handler) openSession(c *call, nc *net.UnixConn) ([]nat.Mapping, error) {
	o := Outcome{Operation: OpPublish}
	s := Session{Conn: nc, PID: int(c.conn.client.pid), UID: int(c.conn.client.uid)}
	body, sockets, err := readSession(nc, h.limits.bodyTime)
	defer func() {
		for _, fd := range sockets {
			_ = unix.Close(fd) // frees it whatever it returns
		}
	}()
	if err == nil {
		s.Mappings, err = decodeRequests(body, time.Now())
	}
	if err == nil {
		err = validateSession(s.Mappings)
	}
	if err != nil {
		h.outcome(c, o, err)
		return nil, err
	}
	s.Sockets = sockets
	return change(h, c, o, func() ([]nat.Mapping, error) { return h.Sessions(c.ctx, s) },
		func(o *Outcome, ms []nat.Mapping) { o.Mappings = ms })
}

// readSession reads a line, and the descriptors that come with it, also with an error.
func readSession(nc *net.UnixConn, timeout time.Duration) (line []byte, sockets []int, err error) {
	if err := nc.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, nil, err
	}
	b, rights := make([]byte, 4<<10), make([]byte, unix.CmsgSpace(4*maxSessionSockets))
	for {
		n, rn, flags, _, err := nc.ReadMsgUnix(b, rights)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, sockets, problem(http.StatusRequestTimeout, CodeTimeout, fmt.Sprintf("read session: it did not come within %v", timeout))
		}
		if err != nil {
			return nil, sockets, err
		}
		more, rightsErr := parseRights(rights[:rn])
		sockets = append(sockets, more...)
		line = append(line, b[:n]...)
		switch {
		case rightsErr != nil:
			return nil, sockets, malformed(rightsErr.Error())
		case flags&unix.MSG_CTRUNC != 0:
			return nil, sockets, malformed("descriptors were lost")
		case n == 0:
			return nil, sockets, malformed("the client has closed the connection")
		case len(line) > maxSession:
			return nil, sockets, tooLarge(maxSession)
		case line[len(line)-1] == '\n':
			return line, sockets, nc.SetReadDeadline(time.Time{})
		case bytes.IndexByte(line, '\n') >= 0:
			return nil, sockets, malformed("something follows the line of mappings")
		}
	}
}

// parseRights takes descriptors out of control messages.
func parseRights(b []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		some, rightsErr := unix.ParseUnixRights(&messages[i])
		fds, err = append(fds, some...), errors.Join(err, rightsErr)
	}
	return fds, err
}

func writeLine(nc *net.UnixConn, doc any, timeout time.Duration) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if err := nc.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err = nc.Write(append(text, '\n'))
	return errors.Join(err, nc.SetWriteDeadline(time.Time{}))
}

// Session publishes mappings for as long as the returned connection is open and the server runs.
// sockets are descriptors of sockets that are bound to the ports of the first mappings, by which the server
// holds and serves them; the caller closes its own. Nil: the server binds the ports.
//
// To end the session, close the connection's side for writing, and read until its end, at which
// the mappings are unpublished; or close it. If the server ends, so does the connection, and the
// mappings stay; another server that takes the table up keeps them for half a minute, for a
// session with the same mappings. Their names have to be those of a [SessionOwner].
//
// Errors are those of Publish.
func (c *Client) Session(ctx context.Context, sockets []int, ms ...nat.Mapping) (*net.UnixConn, []nat.Mapping, error) {
	text, err := json.Marshal(requests(ms))
	if err != nil {
		return nil, nil, fmt.Errorf("ask %s: %w", c.path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nc, err := c.switchTo(ctx, "/v1/sessions", upgradeSession)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	done, err := c.begin(nc, append(text, '\n'), sockets)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	return nc, done, nil
}

// SessionRequest returns what [Client.Session] sends: request, and line when that was answered. It is
// for programs without this package.
func SessionRequest(ms ...nat.Mapping) (request, line []byte, err error) {
	text, err := json.Marshal(requests(ms))
	if err != nil {
		return nil, nil, fmt.Errorf("write session: %w", err)
	}
	const header = "POST /v1/sessions HTTP/1.1\r\nHost: nftnat\r\nConnection: Upgrade\r\nUpgrade: " + upgradeSession + "\r\nContent-Length: 0\r\n\r\n"
	return []byte(header), append(text, '\n'), nil
}

// begin sends the request of a session and reads the answer, behind which nothing follows.
func (c *Client) begin(nc *net.UnixConn, request []byte, sockets []int) ([]nat.Mapping, error) {
	var rights []byte
	if len(sockets) != 0 {
		rights = unix.UnixRights(sockets...)
	}
	n, _, err := nc.WriteMsgUnix(request, rights, nil)
	if err == nil && n < len(request) {
		_, err = nc.Write(request[n:]) // the descriptors are with the first byte
	}
	var answer sessionAnswer
	if err == nil {
		err = json.NewDecoder(io.LimitReader(bufio.NewReader(nc), 2*maxSession)).Decode(&answer)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask %s: %w", c.path, cause(err))
	case answer.Problem != nil:
		return nil, answer.Problem
	}
	return mappings(answer.Mappings)
}

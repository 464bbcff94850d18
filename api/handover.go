// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nftnat/nftnat/internal/unixhttp"
)

// upgradeHandover is the protocol to which the connection switches (RFC 9110 section 7.8).
const upgradeHandover = "nftnat-handover"

// postHandover sends the connection to Options.Handovers. After its answer the connection
// carries another protocol, in which the client sends first.
func (h *handler) postHandover(w http.ResponseWriter, c *call) (any, error) {
	if err := upgradable(w, c, upgradeHandover, "handover"); err != nil {
		return nil, err
	}
	// Members of the socket's group may change what is published, and no more.
	if uid := c.conn.client.uid; uid != 0 && int64(uid) != int64(os.Geteuid()) {
		return nil, fmt.Errorf("user %d may not take over: %w", uid, fs.ErrPermission)
	}
	// One handover at a time: another client is told to wait.
	h.handing.Lock()
	defer h.handing.Unlock()
	if len(h.Handovers) == cap(h.Handovers) {
		return nil, problem(http.StatusServiceUnavailable, CodeBusy, "the server is handing over already")
	}
	nc, err := h.upgrade(w, c, upgradeHandover)
	if nc != nil {
		h.Handovers <- nc
	}
	return nil, err
}

// upgradable refuses a request that cannot go on in another protocol.
func upgradable(w http.ResponseWriter, c *call, protocol, what string) error {
	switch {
	case c.conn == nil:
		return problem(http.StatusNotFound, CodeUnsupported, "this server has no "+what)
	case c.ContentLength != 0:
		return problem(http.StatusBadRequest, CodeInvalid, "a "+what+" has no body")
	case c.Header.Get("Upgrade") != protocol:
		w.Header().Set("Upgrade", protocol)
		return problem(http.StatusUpgradeRequired, CodeInvalid, "a "+what+" goes on in the protocol "+protocol)
	}
	return nil
}

// upgrade switches a connection to another protocol. It is the server's no more. Nil without an
// error: the client has gone, which was logged.
func (h *handler) upgrade(w http.ResponseWriter, c *call, protocol string) (*net.UnixConn, error) {
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	nc := c.conn.UnixConn
	if err := accept(nc, rw, protocol, h.limits.writeTime); err != nil {
		h.Log.Warn("a connection could not be upgraded", "protocol", protocol, "error", errors.Join(err, nc.Close()))
		return nil, nil
	}
	return nc, nil
}

// accept writes the answer after which a connection carries another protocol.
func accept(nc *net.UnixConn, rw *bufio.ReadWriter, protocol string, timeout time.Duration) error {
	if rw.Reader.Buffered() != 0 {
		return errors.New("the client has sent more than its request")
	}
	if err := nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"); err != nil {
		return err
	}
	if err := rw.Flush(); err != nil {
		return err
	}
	return nc.SetDeadline(time.Time{})
}

// Handover asks the server to hand over to this process, and returns the connection for the
// handover protocol, in which the client sends first. The error is errors.ErrUnsupported if
// the server is of a version without handovers.
func (c *Client) Handover(ctx context.Context) (*net.UnixConn, error) {
	return c.switchTo(ctx, "/v1/handover", upgradeHandover)
}

// switchTo returns a connection that carries another protocol, in which the client sends first.
func (c *Client) switchTo(ctx context.Context, path, protocol string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.path, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = c.upgrade(nc, path, protocol)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	u, ok := nc.(*net.UnixConn)
	if err == nil && !ok {
		err = fmt.Errorf("ask %s: %T is no unix socket", c.path, nc)
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return u, nil
}

// upgrade sends the request and reads the answer. The server sends no more before the client
// does, so that nothing stays in the buffer.
func (c *Client) upgrade(nc net.Conn, path, protocol string) error {
	resp, err := unixhttp.RoundTrip(nc, http.MethodPost, path, nil, "Connection: Upgrade", "Upgrade: "+protocol, "Content-Length: 0")
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.path, cause(err))
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	return readProblem(resp)
}

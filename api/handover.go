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
)

// upgradeHandover is the protocol to which the connection switches (RFC 9110 section 7.8).
const upgradeHandover = "nftnat-handover"

// postHandover sends the connection to Options.Handovers. After its answer the connection
// carries another protocol, in which the client sends first.
func (h *handler) postHandover(w http.ResponseWriter, c *call) (any, error) {
	switch {
	case c.conn == nil:
		return nil, problem(http.StatusNotFound, CodeUnsupported, "this server has no handover")
	case c.ContentLength != 0:
		return nil, problem(http.StatusBadRequest, CodeInvalid, "a handover has no body")
	case c.Header.Get("Upgrade") != upgradeHandover:
		w.Header().Set("Upgrade", upgradeHandover)
		return nil, problem(http.StatusUpgradeRequired, CodeInvalid, "a handover goes on in the protocol "+upgradeHandover)
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
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	c.conn.release()
	nc := c.conn.UnixConn
	if err := accept(nc, rw, h.limits.writeTime); err != nil {
		h.Log.Warn("a handover could not begin", "error", errors.Join(err, nc.Close()))
		return nil, nil
	}
	h.Handovers <- nc
	return nil, nil
}

// accept writes the answer after which a connection carries a handover.
func accept(nc *net.UnixConn, rw *bufio.ReadWriter, timeout time.Duration) error {
	if rw.Reader.Buffered() != 0 {
		return errors.New("the client has sent more than its request")
	}
	if err := nc.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + upgradeHandover + "\r\n\r\n"); err != nil {
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
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.path, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = c.upgrade(nc)
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
func (c *Client) upgrade(nc net.Conn) error {
	resp, err := roundTrip(nc, http.MethodPost, "/v1/handover", nil, "Connection: Upgrade", "Upgrade: "+upgradeHandover, "Content-Length: 0")
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.path, cause(err))
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer func() { _ = resp.Body.Close() }() // was only read
	return readProblem(resp)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"io"
	"net"
)

// EchoTCP starts a server on a TCP address inside ns. Each connection is sent
// the line "NAME PEER", then everything it sends, until it closes its side,
// when the server closes the other. Close resets what is still open.
func EchoTCP(ns *NS, name, addr string) (*Server, error) {
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	e := &echoTCP{name: name, listener: l}
	s := &Server{addr: addrPort(l.Addr()), stop: e.stop}
	e.server = s
	s.wg.Go(e.accept)
	return s, nil
}

type echoTCP struct {
	name     string
	listener net.Listener
	conns    closers
	server   *Server
}

func (e *echoTCP) stop() error {
	err := e.listener.Close()
	e.conns.closeAll()
	return err
}

func (e *echoTCP) accept() {
	for {
		c, err := e.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// The process is out of descriptors. The test sees refused clients.
			_ = e.listener.Close()
			return
		}
		if e.conns.add(c) {
			e.server.wg.Go(func() { e.echo(c) })
		}
	}
}

func (e *echoTCP) echo(c net.Conn) {
	defer e.conns.remove(c)
	if _, err := io.WriteString(c, whoami(e.name, addrPort(c.RemoteAddr()))); err != nil {
		return
	}
	_, _ = io.Copy(c, c)
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"io"
	"net"

	"github.com/nftnat/nftnat/proxy"
)

// A port is taken first and opened when everything else is ready.
func Example() {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if c, err := backend.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()

	// One group for all proxies of the process.
	group := proxy.NewGroup(nil)
	defer func() { _ = group.Close() }()

	// Any local address, IPv4 and IPv6, any free port.
	p, err := proxy.New(&net.TCPAddr{}, backend.Addr(), &proxy.Options{Group: group})
	if err != nil {
		fmt.Println(err)
		return
	}
	// ... the port is held; prepare everything else ...
	if err := p.Open(); err != nil {
		fmt.Println(err)
		return
	}

	port := p.FrontendAddr().(*net.TCPAddr).Port
	c, err := net.Dial("tcp", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(c, "hello")
	_ = c.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	fmt.Println(string(answer), err)
	_ = c.Close()

	<-served
	_ = backend.Close()
	// Output: hello <nil>
}

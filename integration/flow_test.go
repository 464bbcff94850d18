// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// command prepares to run another program.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(labtest.Tool(t, name), args...)
}

// flow is a client that keeps its source port, like a DNS resolver or a VPN peer. A change of
// the rules alone does not affect it.
type flow struct {
	network string
	conn    net.Conn
	lines   *bufio.Reader // TCP
	greeted bool          // TCP: the server has sent its name
}

// answerTimeout bounds the wait for an answer or a refusal.
var answerTimeout = labtest.Stretch(15 * time.Second)

// silence is how long a flow waits to show that nothing answers.
var silence = labtest.Stretch(300 * time.Millisecond)

// dialFlow connects from inside ns.
func dialFlow(t *testing.T, ns *lab.NS, network, addr string) *flow {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	c, err := ns.Dial(ctx, network, addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &flow{network: network, conn: c, lines: bufio.NewReader(c)}
}

// local is the flow's own address and port.
func (f *flow) local() netip.AddrPort {
	switch a := f.conn.LocalAddr().(type) {
	case *net.UDPAddr:
		return a.AddrPort()
	case *net.TCPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// ask sends something and returns the name of the server that answers.
func (f *flow) ask() (name string, err error) {
	if err := f.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return "", err
	}
	token := rand.Text()
	if _, err := f.conn.Write([]byte(token + "\n")); err != nil {
		return "", err
	}
	if f.network == "tcp" {
		return f.askStream(token)
	}
	buf := make([]byte, 512)
	for {
		n, err := f.conn.Read(buf)
		if err != nil {
			return "", err
		}
		who, echo, _ := strings.Cut(string(buf[:n]), "\n")
		if strings.TrimSpace(echo) == token {
			name, _, _ = strings.Cut(who, " ")
			return name, nil
		} // otherwise it is the late answer to an earlier datagram
	}
}

// askStream sends a line, which is echoed. Only the first answer has the server's name.
func (f *flow) askStream(token string) (name string, err error) {
	if !f.greeted {
		who, err := f.lines.ReadString('\n')
		if err != nil {
			return "", err
		}
		name, _, _ = strings.Cut(who, " ")
		f.greeted = true
	}
	line, err := f.lines.ReadString('\n')
	if err == nil && strings.TrimSpace(line) != token {
		err = errors.New("another line was echoed: " + line)
	}
	return name, err
}

// name returns the name of the server that answers one datagram.
func (f *flow) name(t *testing.T) string {
	t.Helper()
	name, err := f.ask()
	require.NoError(t, err)
	return name
}

// refused returns the error if nothing answers.
func (f *flow) refused(t *testing.T) error {
	t.Helper()
	name, err := f.ask()
	require.Error(t, err, "%s answered", name)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it should have been refused")
	return err
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// callers call a server as fast as they can, one connection or datagram after another.
type callers struct {
	network, address string
	stop             chan struct{}
	running          sync.WaitGroup

	mu sync.Mutex
	// done counts calls; refused, lost and broken count those that were refused, were not
	// answered, or whose connection ended too early.
	done, refused, lost, broken int
	errs                        []error // the first errors
}

// callersAtATime is the number of callers of one address.
const callersAtATime = 2

func startCallers(t *testing.T, ns *lab.NS, network, address string) *callers {
	t.Helper()
	c := &callers{network: network, address: address, stop: make(chan struct{})}
	for range callersAtATime {
		c.running.Go(func() { c.call(ns) })
	}
	t.Cleanup(func() { c.halt() })
	return c
}

func (c *callers) String() string { return c.network + " " + c.address }

func (c *callers) call(ns *lab.NS) {
	var f *flow // UDP clients keep their source port
	for !c.halted() {
		if f == nil {
			ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
			conn, err := ns.Dial(ctx, c.network, c.address)
			cancel()
			if err != nil {
				c.note(err)
				continue
			}
			f = &flow{network: c.network, conn: conn, lines: bufio.NewReader(conn)}
		}
		_, err := f.ask()
		c.note(err)
		if tcp, ok := f.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // otherwise its port would be in use for a minute
			_ = f.conn.Close()
			f = nil
		}
	}
	if f != nil {
		_ = f.conn.Close()
	}
}

func (c *callers) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
	switch {
	case err == nil:
		return
	case errors.Is(err, unix.ECONNREFUSED):
		c.refused++
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		c.lost++
	default:
		c.broken++
	}
	if len(c.errs) < 3 {
		c.errs = append(c.errs, err)
	}
}

func (c *callers) halted() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

func (c *callers) halt() {
	if !c.halted() {
		close(c.stop)
	}
	c.running.Wait()
}

// end stops them, and returns the first errors.
func (c *callers) end(t *testing.T) error {
	t.Helper()
	c.halt()
	t.Logf("%s: %d asked, %d refused, %d lost, %d broken", c, c.done, c.refused, c.lost, c.broken)
	return errors.Join(c.errs...)
}

// forget forgets calls that have failed so far, because something else than what is tested went on.
func (c *callers) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused, c.lost, c.broken, c.errs = 0, 0, 0, nil
}

// soFar returns the number of calls.
func (c *callers) soFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// goOn waits for some more calls.
func (c *callers) goOn(t *testing.T) {
	t.Helper()
	before := c.soFar()
	await(t, "more questions", func() bool { return c.soFar() > before+20 })
}

// stream is one connection to an echo server.
type stream struct {
	conn    *net.TCPConn
	stop    chan struct{}
	running sync.WaitGroup
	sent    int
	err     error
}

func startStream(t *testing.T, ns *lab.NS, address string) *stream {
	t.Helper()
	f := dialFlow(t, ns, "tcp", address)
	require.Equal(t, "backend", f.name(t))
	require.NoError(t, f.conn.SetDeadline(time.Time{}))
	s := &stream{conn: f.conn.(*net.TCPConn), stop: make(chan struct{})}
	s.running.Go(func() { s.err = s.flow(f.lines) })
	return s
}

func (s *stream) flow(lines io.Reader) error {
	sent, got := make([]byte, 4096), make([]byte, 4096)
	random := rand.NewChaCha8([32]byte{})
	for {
		select {
		case <-s.stop:
			return nil
		default:
		}
		_, _ = random.Read(sent)
		if _, err := s.conn.Write(sent); err != nil {
			return err
		}
		if _, err := io.ReadFull(lines, got); err != nil {
			return err
		}
		if !bytes.Equal(sent, got) {
			return errors.New("other bytes came back")
		}
		s.sent += len(sent)
	}
}

// end ends the connection, and returns the number of bytes that it carried.
func (s *stream) end(t *testing.T) int {
	t.Helper()
	close(s.stop)
	s.running.Wait()
	require.NoError(t, s.err)
	require.NoError(t, s.conn.Close())
	return s.sent
}

// task does something again and again until it is ended.
type task struct {
	stop    chan struct{}
	running sync.WaitGroup
	rounds  atomic.Int64
	once    sync.Once
	err     error
}

func startTask(t *testing.T, round func(i int64) error) *task {
	t.Helper()
	k := &task{stop: make(chan struct{})}
	k.running.Go(func() {
		for k.err == nil {
			select {
			case <-k.stop:
				return
			default:
			}
			k.err = round(k.rounds.Add(1))
		}
	})
	t.Cleanup(k.halt)
	return k
}

func (k *task) halt() {
	k.once.Do(func() { close(k.stop) })
	k.running.Wait()
}

// end stops it, and returns how often it succeeded.
func (k *task) end(t *testing.T) int64 {
	t.Helper()
	k.halt()
	require.NoError(t, k.err)
	return k.rounds.Load()
}

// startOccupiers starts tasks that try to bind the ports of publishEveryKind, and others.
func startOccupiers(t *testing.T, ns *lab.NS, others ...string) *task {
	t.Helper()
	held := slices.Concat(everyKindHeld, others)
	return startTask(t, func(i int64) error {
		network := []string{"tcp", "udp"}[i%2]
		options := []int{unix.SO_REUSEADDR}
		if i%3 == 0 {
			options = append(options, unix.SO_REUSEPORT)
		}
		address := held[i/2%int64(len(held))]
		held, err := occupy(ns, network, address, options...)
		if err == nil {
			return errors.Join(fmt.Errorf("somebody got %s %s", network, address), held.Close())
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		return nil
	})
}

// startAPIUsers starts tasks that read and change the state through the API.
func startAPIUsers(t *testing.T, s *testbed) *task {
	t.Helper()
	m := mapping(t, "9000->172.30.0.2:80")
	before, err := s.api.Mappings(t.Context())
	require.NoError(t, err)
	others := len(nat.Collapse(before))
	return startTask(t, func(i int64) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*answerTimeout)
		defer cancel()
		if _, err := s.api.Publish(ctx, nat.PublishOptions{}, m); err != nil {
			return err
		}
		ms, err := s.api.Mappings(ctx)
		if err != nil {
			return err
		}
		if n := len(nat.Collapse(ms)); n != others+1 {
			return fmt.Errorf("round %d: there are %d mappings beside %d", i, n, others)
		}
		_, err = s.api.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}})
		return err
	})
}

// startScrapes starts a task that reads metrics.
func startScrapes(t *testing.T, ns *lab.NS, url string) *task {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       ns.Dial,
	}}
	return startTask(t, func(int64) error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	})
}

// notifySocket is the socket of a service manager (sd_notify(3)).
func notifySocket(t *testing.T) (path string, told <-chan string) {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "manager-")
	require.NoError(t, err)
	path = dir + "/notify"
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	lines := make(chan string, 100)
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 1000)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			lines <- string(b[:n])
		}
	})
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		reading.Wait()
		require.NoError(t, os.RemoveAll(dir))
	})
	return path, lines
}

// fileAsExport is what export prints of a state file.
func fileAsExport(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	kept, err := state.Decode(bytes.NewReader(text), path)
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, state.Encode(&b, kept))
	return b.String()
}

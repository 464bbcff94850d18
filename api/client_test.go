// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// The client returns what the engine does.
func TestClientMirrorsEngine(t *testing.T) {
	expires := time.Date(2999, 1, 2, 3, 4, 5, 6e6, time.UTC)
	web := parse(t, "8080->172.17.0.2:80")
	web.Name, web.Expires = "<a> & b", expires
	dns := parse(t, "[2001:db8::1]:53->[fd00::2]:53/udp")
	dns.NoProxy = true
	rng := parse(t, "192.0.2.1:8000-8009->172.17.0.2:9000-9009")
	free := parse(t, "0->172.17.0.2:90-92")
	single := func(m nat.Mapping) []nat.Mapping { return slices.Collect(nat.Expand(m)) }

	direct := newFake()
	s := start(t, Options{Engine: newFake()}, defaultLimits())
	ctx := t.Context()

	empty, err := s.Mappings(ctx)
	require.NoError(t, err)
	require.Empty(t, empty)

	want, err := direct.Publish(ctx, nat.PublishOptions{}, web, dns, rng, free)
	require.NoError(t, err)
	got, err := s.Publish(ctx, nat.PublishOptions{}, web, dns, rng, free)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, "49153-49155->172.17.0.2:90-92", got[3].String())

	all, err := s.Mappings(ctx)
	require.NoError(t, err)
	require.Equal(t, nat.Collapse(direct.list()), all)

	wantCounts, err := direct.Connections(ctx)
	require.NoError(t, err)
	counts, err := s.Connections(ctx)
	require.NoError(t, err)
	require.Equal(t, wantCounts, counts)

	web.Backend = dns.Backend
	web.Expires = time.Time{}
	want, err = direct.Publish(ctx, nat.PublishOptions{Replace: true}, web)
	require.NoError(t, err)
	got, err = s.Publish(ctx, nat.PublishOptions{Replace: true}, web)
	require.NoError(t, err)
	require.Equal(t, want, got)

	for _, apply := range []struct {
		direct, client func(context.Context, ...nat.Mapping) ([]nat.Change, error)
	}{{direct.Diff, s.Diff}, {direct.Apply, s.Apply}, {direct.Apply, s.Apply}} {
		rng2 := rng
		rng2.Name = "changed"
		slices.SortFunc(want, nat.Compare)
		want, err := apply.direct(ctx, dns, rng2, parse(t, "1-9->172.17.0.2:1-9"))
		require.NoError(t, err)
		got, err := apply.client(ctx, dns, rng2, parse(t, "1-9->172.17.0.2:1-9"))
		require.NoError(t, err)
		require.ElementsMatch(t, want, got)
	}
	all, err = s.Mappings(ctx)
	require.NoError(t, err)
	require.Equal(t, nat.Collapse(direct.list()), all)

	want, err = direct.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{rng}})
	require.NoError(t, err)
	got, err = s.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{rng}})
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Len(t, got, 1)
	require.Len(t, single(got[0]), 10)

	want, err = direct.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{dns}, Kill: true})
	require.NoError(t, err)
	got, err = s.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{dns}, Kill: true})
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, "killed", got[0].Name)

	changes, err := s.Apply(ctx)
	require.NoError(t, err)
	require.Len(t, changes, 1, "nothing is to be published, and what was is one range")
	require.Equal(t, "- 1-9->172.17.0.2:1-9", changes[0].String())
}

// Errors cross the wire: they are the same by errors.Is and have the same text.
func TestErrorsCrossTheWire(t *testing.T) {
	conflict := &nat.ConflictError{Have: parse(t, "8080->172.17.0.3:80"), Want: parse(t, "192.0.2.1:8080->172.17.0.2:80")}
	conflict.Have.Name = "web"
	sentinels := []error{
		fs.ErrPermission, fs.ErrNotExist, nat.ErrInvalid, nat.ErrConflict, nat.ErrOwned, nat.ErrNotFound,
		nat.ErrClosed, nat.ErrExhausted, errors.ErrUnsupported, os.ErrDeadlineExceeded, ErrBusy,
	}
	tests := []struct {
		err    error
		is     []error
		status int
		code   Code
	}{
		{fmt.Errorf("publish tcp 8080: %w", conflict), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("publish udp 1000-4000: %w", &nat.RangesError{Want: parse(t, "192.0.2.1:1000-4000->172.17.0.2:1000-4000/udp"), Most: 128}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("attach web: %w", &nat.TakenError{What: "address 172.30.0.2", Holder: "endpoint dns"}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("attach web: %w", &nat.TakenError{What: "endpoint web (172.30.0.2)"}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("publish tcp 80: %w", &nat.HeldError{
			Want: nat.Mapping{Proto: nat.TCP}, Address: netip.MustParseAddrPort("[::]:80"), Inode: 4711, UID: 33,
		}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("publish udp 80: %w", &nat.HeldError{
			Want: nat.Mapping{Proto: nat.UDP}, Address: netip.MustParseAddrPort("0.0.0.0:80"), Inode: 4711, UID: 33, PID: 812, Command: "nginx",
		}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("publish udp 4789: %w", &nat.HeldError{
			Want: nat.Mapping{Proto: nat.UDP}, Address: netip.MustParseAddrPort("0.0.0.0:4789"), Inode: 4711, Kernel: true, Purpose: "vxlan interface vx0",
		}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("publish tcp 40000: %w", &nat.HeldError{
			Want: nat.Mapping{Proto: nat.TCP}, Address: netip.MustParseAddrPort("192.0.2.1:40000"), Peer: netip.MustParseAddrPort("192.0.2.2:80"), Ended: true, Ephemeral: true,
		}), []error{nat.ErrConflict}, 409, CodeConflict},
		{fmt.Errorf("publish udp 53: %w", &nat.HeldError{
			Want: nat.Mapping{Proto: nat.UDP}, Address: netip.MustParseAddrPort("127.0.0.53:53"), Inode: 4711, UID: 33, Free: netip.MustParseAddr("192.0.2.1"),
		}), []error{nat.ErrConflict}, 409, CodeConflict},
		{&nat.PortSpecError{Spec: "4503/tcp/udp"}, []error{nat.ErrInvalid}, 422, CodeInvalid},
		{fmt.Errorf("publish tcp 0: %w", nat.ErrExhausted), []error{nat.ErrExhausted}, 409, CodeExhausted},
		{&nat.OwnedError{Table: "nftnat", PID: 812}, []error{nat.ErrOwned}, 409, CodeOwned},
		{fmt.Errorf("tcp 8080 is %w", nat.ErrNotFound), []error{nat.ErrNotFound, fs.ErrNotExist}, 404, CodeNotFound},
		{&nat.InvalidError{What: "mapping", Input: "a\nb", Reason: "it is\nnot"}, []error{nat.ErrInvalid}, 422, CodeInvalid},
		{fmt.Errorf("publish tcp 80: %w", syscall.EPERM), []error{fs.ErrPermission}, 403, CodePermission},
		{fmt.Errorf("publish: %w", nat.ErrClosed), []error{nat.ErrClosed}, 503, CodeClosed},
		{errors.Join(conflict, errors.New("undo: it is lost"), io0()), []error{nat.ErrConflict}, 409, CodeConflict},
		// Of several kinds, the first as the command line has them.
		{errors.Join(nat.ErrNotFound, nat.ErrConflict, syscall.EACCES), []error{fs.ErrPermission}, 403, CodePermission},
		// These are the server's to say: of the engine they mean something else.
		{fmt.Errorf("netlink: %w", os.ErrDeadlineExceeded), nil, 500, CodeInternal},
		{fmt.Errorf("kernel: %w", errors.ErrUnsupported), nil, 500, CodeInternal},
		{errors.New(`strange "things" & <more>`), nil, 500, CodeInternal},
	}
	fake := newFake()
	s := start(t, Options{Engine: fake}, defaultLimits())
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			fake.err = tt.err
			_, err := s.Publish(t.Context(), nat.PublishOptions{}, parse(t, "8080->172.17.0.2:80"))
			require.EqualError(t, err, strings.ReplaceAll(tt.err.Error(), "\n", "; "))
			for _, sentinel := range sentinels {
				require.Equal(t, slices.Contains(tt.is, sentinel), errors.Is(err, sentinel), "%v", sentinel)
			}
			var p *Problem
			require.ErrorAs(t, err, &p)
			require.Equal(t, tt.code, p.Code)
			require.Equal(t, tt.status, p.Status)
			require.Equal(t, http.StatusText(tt.status), p.Title)
			require.Equal(t, "about:blank", p.Type)
			var want, got *nat.ConflictError
			require.Equal(t, errors.As(tt.err, &want), errors.As(err, &got))
			require.Equal(t, want, got)
			var wantTaken, gotTaken *nat.TakenError
			require.Equal(t, errors.As(tt.err, &wantTaken), errors.As(err, &gotTaken))
			require.Equal(t, wantTaken, gotTaken)
			var wantHeld, gotHeld *nat.HeldError
			require.Equal(t, errors.As(tt.err, &wantHeld), errors.As(err, &gotHeld))
			require.Equal(t, wantHeld, gotHeld)
			var wantMany, gotMany *nat.RangesError
			require.Equal(t, errors.As(tt.err, &wantMany), errors.As(err, &gotMany))
			require.Equal(t, wantMany, gotMany)
			if wantMany != nil {
				require.Nil(t, p.Have)
				return
			}
			if want == nil {
				require.Nil(t, p.Have)
				require.Nil(t, p.Want)
				return
			}
			require.Equal(t, &Mapping{Proto: "tcp", Port: 8080, Backend: "172.17.0.3:80", Name: "web", Proxy: true}, p.Have)
		})
	}
	fake.err = nil
}

func io0() error { return errors.New("two\nlines") }

func TestClientWithoutServer(t *testing.T) {
	labtest.LeakCheck(t)
	dir := directory(t)
	missing := filepath.Join(dir, "missing")
	_, err := NewClient(missing).Mappings(t.Context())
	require.ErrorIs(t, err, ErrNoServer)
	require.EqualError(t, err, "ask "+missing+": no server answers: no such file or directory")

	stale := filepath.Join(dir, "stale")
	leaveStale(t, stale)
	_, err = NewClient(stale).Status(t.Context())
	require.ErrorIs(t, err, ErrNoServer)
	require.EqualError(t, err, "ask "+stale+": no server answers: connection refused")
	_, err = NewClient(stale).Events(t.Context())
	require.ErrorIs(t, err, ErrNoServer)
}

// A call ends with its context, and says who did not answer.
func TestClientContext(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = NewClient(path).Mappings(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualError(t, err, "ask "+path+": the server does not answer: context deadline exceeded")
}

// A server's queue that is full is waited for.
func TestClientWaitsForQueue(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	require.NoError(t, syscall.Listen(fd, 0)) // one may wait

	waiting, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer waiting.Close()
	_, err = net.Dial("unix", path)
	require.ErrorIs(t, err, syscall.EAGAIN)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = NewClient(path).Mappings(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	l, err := net.FileListener(f)
	require.NoError(t, err)
	var asked error
	var wg sync.WaitGroup
	wg.Go(func() { _, asked = NewClient(path).Mappings(context.Background()) })
	time.Sleep(10 * time.Millisecond) // it is likely to wait by now; if not, nothing is shown
	s := startOn(t, l, Options{Engine: newFake()}, defaultLimits())
	require.NoError(t, waiting.Close())
	wg.Wait()
	require.NoError(t, asked)
	require.NoError(t, s.stop())
}

// What is no answer of a server is told as such.
func TestClientStrangeServer(t *testing.T) {
	tests := []struct{ answer, want string }{
		{"", "ask PATH: the server closed the connection: EOF"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", "read answer of PATH: the server closed the connection: unexpected EOF"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "read answer of PATH: json: cannot unmarshal object into Go value of type []api.Mapping"},
		{"HTTP/1.1 431 Too Much\r\nContent-Length: 1\r\n\r\nx", "the server answered 431 Too Much"},
		{"HTTP/1.1 500 Oh\r\nContent-Type: application/problem+json\r\nContent-Length: 1\r\n\r\nx", "the server answered 500 Oh"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[{}]", `read mapping: unknown protocol "": tcp or udp`},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			labtest.LeakCheck(t)
			path := filepath.Join(directory(t), "s")
			l, err := net.Listen("unix", path)
			require.NoError(t, err)
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = nc.Read(make([]byte, 4096))
				_, _ = nc.Write([]byte(tt.answer))
				_ = nc.Close()
			})
			_, err = NewClient(path).Mappings(t.Context())
			require.EqualError(t, err, strings.ReplaceAll(tt.want, "PATH", path))
		})
	}
}

// 16 clients at once: no port ever has two owners, and in the end all is as it was.
func TestConcurrentUse(t *testing.T) {
	fake := newFake()
	s := start(t, Options{Engine: fake, Status: func(context.Context) (Status, error) { return Status{PID: 1}, nil }}, defaultLimits())
	var wg sync.WaitGroup
	var mu sync.Mutex
	held := map[uint16]bool{}
	failures := make(chan error, 16)
	for range 16 {
		wg.Go(func() {
			failures <- func() error {
				for port := uint16(1); port <= 20; port++ {
					m, err := nat.ParseMapping("tcp", fmt.Sprint(port), "172.17.0.2:80")
					if err != nil {
						return err
					}
					_, err = s.Publish(t.Context(), nat.PublishOptions{}, m)
					if errors.Is(err, nat.ErrConflict) {
						continue
					}
					if err != nil {
						return err
					}
					mu.Lock()
					twice := held[port]
					held[port] = true
					mu.Unlock()
					if twice {
						return fmt.Errorf("port %d has two owners", port)
					}
					if _, err := s.Mappings(t.Context()); err != nil {
						return err
					}
					if _, err := s.Status(t.Context()); err != nil {
						return err
					}
					mu.Lock()
					held[port] = false
					mu.Unlock()
					if _, err := s.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}}); err != nil {
						return err
					}
				}
				return nil
			}()
		})
	}
	wg.Wait()
	for range 16 {
		require.NoError(t, <-failures)
	}
	require.Empty(t, fake.list())
}

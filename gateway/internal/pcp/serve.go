// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/nftnat/nftnat/gateway/internal/lan"
)

// The ports of NAT-PMP and PCP (RFC 6887 section 19.1).
const (
	clientPort = 5350 // announcements
	serverPort = 5351
)

const (
	// atOnce is how many requests are answered at the same time: what waits for the daemon
	// together goes there together.
	atOnce = 128
	// behind is how many requests about one port may wait for one another. More are dropped, and
	// clients send them again.
	behind = 8
)

// Run answers and announces until ctx is done, and closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	done.Go(func() { s.announce(ctx) })
	done.Go(func() {
		<-ctx.Done()
		_ = s.socket.Close() // ends Read
	})
	err := s.serve(ctx)
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("read requests of NAT-PMP and PCP: %w", err)
}

// serve reads requests and has them answered. Before the leases have been read, requests are
// dropped: clients ask again.
func (s *Server) serve(ctx context.Context) error {
	q := queues{waiting: make(map[subject][]lan.Packet), slots: make(chan struct{}, atOnce)}
	defer q.done.Wait()
	buf := make([]byte, maxMessage+4)
	for {
		p, err := s.socket.Read(buf)
		if err != nil {
			return err
		}
		select {
		case <-s.leases.Ready():
		default:
			continue
		}
		if p.To != p.Local {
			continue // to a group: requests are to an address of the gateway alone
		}
		p.Data = slices.Clone(p.Data)
		q.add(p, func(p lan.Packet) { s.handle(ctx, p) })
	}
}

// handle answers a datagram.
func (s *Server) handle(ctx context.Context, p lan.Packet) {
	client := p.From.Addr()
	answer := s.Answer(ctx, nil, p.Data, client)
	if len(answer) == 0 {
		return
	}
	s.note(p, answer)
	_ = s.socket.Reply(p, answer) // as good as lost: the client asks again
}

// subject is what requests are about that have to be answered in their order: a port of a client.
type subject struct {
	client   netip.Addr
	internal uint16
}

// subjectOf reads what a request is about; it need not be a valid one.
func subjectOf(p lan.Packet) subject {
	at := pmpInternal
	if len(p.Data) > 0 && p.Data[0] != pmpVersion {
		at = headerLen + atInternal
	}
	s := subject{client: p.From.Addr()}
	if at+2 <= len(p.Data) {
		s.internal = binary.BigEndian.Uint16(p.Data[at:])
	}
	return s
}

// queues are the requests that are being answered.
type queues struct {
	slots chan struct{} // has one for each subject
	done  sync.WaitGroup

	mu      sync.Mutex
	waiting map[subject][]lan.Packet // behind the one that is being answered
}

// add has a request answered, after those about the same subject, and waits for a slot if there is
// none: what comes meanwhile waits in the socket.
func (q *queues) add(p lan.Packet, handle func(lan.Packet)) {
	about := subjectOf(p)
	q.mu.Lock()
	waiting, busy := q.waiting[about]
	if busy {
		if len(waiting) < behind {
			q.waiting[about] = append(waiting, p)
		}
		q.mu.Unlock()
		return
	}
	q.waiting[about] = nil
	q.mu.Unlock()
	q.slots <- struct{}{}
	q.done.Go(func() {
		defer func() { <-q.slots }()
		for ok := true; ok; p, ok = q.next(about) {
			handle(p)
		}
	})
}

// next takes the next request about a subject. False: there is none, and the subject is forgotten.
func (q *queues) next(about subject) (lan.Packet, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiting[about]
	if len(waiting) == 0 {
		delete(q.waiting, about)
		return lan.Packet{}, false
	}
	q.waiting[about] = waiting[1:]
	return waiting[0], true
}

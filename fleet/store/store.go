// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

// Options say where etcd is.
type Options struct {
	// Endpoints of members: https://HOST:PORT. At least one; the more, the more may be away.
	Endpoints []string
	// TLS has the authority and the client's certificate. Nil: no TLS.
	TLS *tls.Config
	// Prefix of all keys. Empty: that of package keys.
	Prefix string
	// Timeout of each call. Zero: 5 s.
	Timeout time.Duration
	// Dial connects to HOST:PORT. Nil: as net.Dialer does.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Seen is what was seen when this program ran before: see [Store.Seen]. Zero: it did not.
	Seen Seen
}

// Seen is the newest revision that was seen of a cluster. One with a revision that is less was restored.
type Seen struct {
	Cluster  uint64 `json:"cluster"`
	Revision int64  `json:"revision"`
}

// Store is what a fleet keeps in etcd. Several goroutines may call its methods at once.
type Store struct {
	client    *clientv3.Client
	prefix    string
	timeout   time.Duration
	endpoints []endpoint
	tls       *tls.Config
	dial      func(ctx context.Context, address string) (net.Conn, error)

	mu       sync.Mutex
	seen     Seen
	restores int           // how often etcd was restored, as far as is known
	restored chan struct{} // closed at the next restore
	suspect  bool          // one goroutine asks whether it was
	checked  time.Time     // when endpoints were asked last why they do not answer
	fault    error         // what they said
}

// Open returns a store of the etcd at the endpoints. If none of them can be used, the error says why of
// each, and names what is wrong with certificates.
func Open(ctx context.Context, o Options) (*Store, error) {
	if len(o.Endpoints) == 0 {
		return nil, &nat.InvalidError{What: "endpoint", Reason: "none is given"}
	}
	s := &Store{prefix: o.Prefix, timeout: o.Timeout, tls: o.TLS, dial: o.Dial, seen: o.Seen, restored: make(chan struct{})}
	if s.prefix == "" {
		s.prefix = keys.Prefix
	}
	if s.timeout == 0 {
		s.timeout = 5 * time.Second
	}
	if s.dial == nil {
		s.dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	texts := make([]string, len(o.Endpoints))
	for i, text := range o.Endpoints {
		e, err := parseEndpoint(text, o.TLS != nil)
		if err != nil {
			return nil, err
		}
		s.endpoints, texts[i] = append(s.endpoints, e), e.text
	}
	errs := s.checkAll(ctx)
	if s.fault = errors.Join(errs...); allFail(errs) {
		return nil, errors.Join(append([]error{ErrUnavailable}, errs...)...)
	}
	var err error
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints:            texts,
		TLS:                  o.TLS,
		DialTimeout:          s.timeout,
		DialKeepAliveTime:    10 * time.Second, // less is raised by gRPC
		DialKeepAliveTimeout: 3 * time.Second,
		DialOptions:          []grpc.DialOption{grpc.WithContextDialer(s.dial)},
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func allFail(errs []error) bool {
	for _, err := range errs {
		if err == nil {
			return false
		}
	}
	return true
}

// Close ends all calls. Leases go on to their ends.
func (s *Store) Close() error { return s.client.Close() }

// Client is that of etcd. Its keys are whole ones.
func (s *Store) Client() *clientv3.Client { return s.client }

// Key is the whole key of a relative one.
func (s *Store) Key(relative string) string { return s.prefix + relative }

// Fault says of which endpoints it is known that they cannot be used, and why. Nil: of none.
func (s *Store) Fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// reason asks the endpoints why they do not answer, at most every 10 s.
func (s *Store) reason() error {
	s.mu.Lock()
	fresh := time.Since(s.checked) < 10*time.Second
	fault := s.fault
	if !fresh {
		s.checked = time.Now()
	}
	s.mu.Unlock()
	if fresh {
		return fault
	}
	fault = errors.Join(s.checkAll(s.client.Ctx())...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
	return fault
}

// Seen is the newest revision that was seen. A program that keeps it for [Options] notices a restore
// that happened while it did not run.
func (s *Store) Seen() Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// note looks at the header of an answer. A revision that went back is either that of a member that
// lags, or etcd was restored: a linearizable read tells. It reports a restore.
func (s *Store) note(ctx context.Context, h *etcdserverpb.ResponseHeader, linearizable bool) (restored bool) {
	if h == nil || h.Revision == 0 {
		return false
	}
	got := Seen{Cluster: h.ClusterId, Revision: h.Revision}
	s.mu.Lock()
	before := s.seen
	switch {
	case before.Cluster == 0 || got.Cluster == before.Cluster && got.Revision >= before.Revision:
		s.seen = got
		s.mu.Unlock()
		return false
	case linearizable && got.Cluster != before.Cluster:
		s.noteRestore(got)
		s.mu.Unlock()
		return true
	case s.suspect:
		s.mu.Unlock()
		return false
	}
	s.suspect = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.Key(keys.Generation), clientv3.WithCountOnly())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspect = false
	if err != nil { // the next answer raises the suspicion again
		return false
	}
	now := Seen{Cluster: resp.Header.ClusterId, Revision: resp.Header.Revision}
	if now.Cluster == before.Cluster && now.Revision >= before.Revision {
		return false
	}
	s.noteRestore(now)
	return true
}

// noteRestore is called with the lock held.
func (s *Store) noteRestore(now Seen) {
	s.seen = now
	s.restores++
	close(s.restored)
	s.restored = make(chan struct{})
}

// restoresSeen is how often etcd was restored, and a channel that is closed the next time.
func (s *Store) restoresSeen() (int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restores, s.restored
}

// Commit does all operations in one transaction if all comparisons hold; ok says whether they did.
// rev is the revision after it. Of a change without an answer the error is ErrUnknown: it may have
// been made, or may still be, and the caller reads back. With ErrRestored ok and rev are those of the
// restored etcd.
func (s *Store) Commit(ctx context.Context, ifs []clientv3.Cmp, then ...clientv3.Op) (ok bool, rev int64, err error) {
	call, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.client.Txn(call).If(ifs...).Then(then...).Commit()
	if err != nil {
		return false, 0, s.wrap(ctx, err, true)
	}
	if s.note(ctx, resp.Header, false) {
		err = ErrRestored
	}
	return resp.Succeeded, resp.Header.Revision, err
}

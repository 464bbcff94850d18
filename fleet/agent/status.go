// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/keys"
)

// What a status has at most, so that a hundred of them are small.
const (
	maxFaults = 20
	maxReason = 300
)

// report writes the status when it has become different.
func (a *agent) report(ctx context.Context) error {
	doctor := time.NewTimer(time.Second)
	defer doctor.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	var applied int64
	for {
		select {
		case <-a.changed:
		case <-again.C:
		case <-doctor.C:
			a.ask(ctx)
			doctor.Reset(a.Doctor)
		case <-ctx.Done():
			return ctx.Err()
		}
		s := a.status()
		if s.Revision != applied { // the doctor comes when it is quiet
			applied = s.Revision
			doctor.Reset(2 * time.Second)
		}
		if err := a.write(ctx, s); err != nil {
			again.Reset(time.Second)
		}
	}
}

// ask asks the doctor.
func (a *agent) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	d, err := a.Daemon.Doctor(ctx)
	if err != nil {
		return // the report says that the daemon is away
	}
	var lines []string
	for _, f := range d.Findings {
		lines = append(lines, cut(f.String()))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doctor = lines[:min(len(lines), maxFaults)]
}

// status is what is written.
func (a *agent) status() keys.HostStatus {
	s := a.desired.Report()
	for i := range s.Errors {
		s.Errors[i].Reason = cut(s.Errors[i].Reason)
	}
	if n := len(s.Errors); n > maxFaults {
		s.Errors, s.More = s.Errors[:maxFaults], n-maxFaults
	}
	s.Daemon = cut(s.Daemon)
	for _, text := range append(a.floats.Problems(), a.spaces.Faults()...) {
		if len(s.Parts) < maxFaults {
			s.Parts = append(s.Parts, cut(text))
		}
	}
	s.Groups, s.Version = a.Groups, a.Version
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Doctor = a.doctor
	return s
}

// write writes a status under the lease, unless etcd has it.
func (a *agent) write(ctx context.Context, s keys.HostStatus) error {
	text := s.Format()
	a.mu.Lock()
	session, written := a.session, a.written
	a.mu.Unlock()
	if session == nil || text == written {
		return nil // hold calls again
	}
	s.Since = time.Now().UTC().Truncate(time.Millisecond)
	_, _, err := a.store.Commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.LeaseValue(a.store.Key(keys.Host(a.Host))), "=", session.ID())},
		clientv3.OpPut(a.store.Key(keys.Status(a.Host)), s.Format(), clientv3.WithLease(session.ID())))
	if err == nil {
		a.mu.Lock()
		if a.session == session {
			a.written = text
		}
		a.mu.Unlock()
	}
	return err
}

func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	end := maxReason
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

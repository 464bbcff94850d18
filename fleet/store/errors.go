// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// ErrUnknown is the error of a change that may have been made, or may still be made: read back.
	ErrUnknown = errors.New("the outcome is not known")
	// ErrUnavailable is the error when no member answers in time.
	ErrUnavailable = errors.New("etcd does not answer")
	// ErrNoSpace is the error of a change when etcd's database is full.
	ErrNoSpace = errors.New("etcd's database is full (compact and defragment it, then disarm the alarm)")
	// ErrRestored is the error of an answer whose revision is less than one seen before: etcd was
	// restored from an older snapshot, and what was written since is gone.
	ErrRestored = errors.New("etcd was restored from an older snapshot")
	// ErrLeaseLost is the error of a session whose lease is no more.
	ErrLeaseLost = errors.New("etcd has ended the lease")
	// ErrDenied is the error of what the user of the certificate may not do.
	ErrDenied = errors.New("etcd does not permit it")
	// ErrClosed is the error of a store after Close.
	ErrClosed = errors.New("the store is closed")
)

// wrap gives an error of the client the error of this package. change says that the call changes
// something, so that without an answer its outcome is not known.
func (s *Store) wrap(ctx context.Context, err error, change bool) error {
	err = s.brief(ctx, err, change)
	if errors.Is(err, ErrUnavailable) {
		if reason := s.reason(); reason != nil {
			err = fmt.Errorf("%w: %w", err, reason)
		}
	}
	return err
}

// brief is wrap without the reason why nobody answers, which takes time.
func (s *Store) brief(ctx context.Context, err error, change bool) error {
	if err == nil {
		return nil
	}
	if s.client.Ctx().Err() != nil {
		return ErrClosed
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) && !change {
		return ctx.Err()
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return ErrNoSpace
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return ErrLeaseLost
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if !unanswered(err) {
		return err
	}
	if change {
		return fmt.Errorf("%w: %w", ErrUnknown, ErrUnavailable)
	}
	return ErrUnavailable
}

// unanswered reports whether an error says that there was no answer.
func unanswered(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	code := status.Code(err)
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = e.Code()
	}
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

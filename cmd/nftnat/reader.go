// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// readPatience bounds how long a command that only reads waits for the daemon, in all. The
// kernel knows the same.
const readPatience = 5 * time.Second

// reader asks a daemon for a command that only reads, until a deadline.
type reader struct {
	publisher
	deadline time.Time
	// failed is why the daemon did not answer; nil: it did, also if by a refusal.
	failed error
}

// ask calls the daemon.
func ask[T any](ctx context.Context, r *reader, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithDeadline(ctx, r.deadline)
	defer cancel()
	answer, err := call(ctx)
	if unanswered(err) {
		r.failed = err
	}
	return answer, err
}

// unanswered reports whether an error is that a daemon gave no answer, or a part of one: it
// was stopped, has just ended, or has too much to do. It does not say whether a change was made.
// Where an answer is cut decides which error it is, so that it is all that is none of the others.
func unanswered(err error) bool {
	var (
		refusal *api.Problem
		bad     usageError
	)
	switch {
	case err == nil, errors.As(err, &bad), errors.Is(err, nat.ErrInvalid), errors.Is(err, fs.ErrPermission):
		return false
	case errors.As(err, &refusal):
		return refusal.Code == api.CodeBusy || refusal.Code == api.CodeClosed
	}
	return true
}

func (r *reader) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	return ask(ctx, r, r.publisher.Mappings)
}

func (r *reader) Endpoints(ctx context.Context) ([]nat.Endpoint, error) {
	return ask(ctx, r, r.publisher.Endpoints)
}

func (r *reader) State(ctx context.Context) (nat.State, error) {
	return ask(ctx, r, r.publisher.State)
}

func (r *reader) Endpoint(ctx context.Context, name string) (nat.Endpoint, error) {
	return ask(ctx, r, func(ctx context.Context) (nat.Endpoint, error) { return r.publisher.Endpoint(ctx, name) })
}

func (r *reader) Inspect(ctx context.Context, name string) (api.Inspection, error) {
	return ask(ctx, r, func(ctx context.Context) (api.Inspection, error) { return r.publisher.Inspect(ctx, name) })
}

func (r *reader) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return ask(ctx, r, func(ctx context.Context) ([]nat.Change, error) { return r.publisher.DiffState(ctx, s) })
}

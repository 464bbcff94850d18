// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/netns"
)

// defaultSocket is where a daemon listens without --socket.
const defaultSocket = "/run/nftnat/nftnat.sock"

// envSocket names another socket, as --socket does.
const envSocket = "NFTNAT_SOCKET"

// socketPath is where a daemon listens.
func (g *global) socketPath() string {
	if g.socket == "" {
		return defaultSocket
	}
	return g.socket
}

// daemon finds the daemon that has this table of this network namespace, or starts it for a
// writer. The error is api.ErrNoServer if none runs and none was started.
func (g *global) daemon(ctx context.Context, a access) (*api.Client, error) {
	if a == reading {
		client, _, err := g.locate(ctx)
		return client, err
	}
	client, free, err := g.locateLiving(ctx)
	if errors.Is(err, api.ErrNoServer) {
		return g.start(ctx, free)
	}
	return client, err
}

// longestPause is the last one before a writer gives up asking a daemon that hangs up. All pauses
// take 2 seconds.
const longestPause = 1024 * time.Millisecond

// locateLiving is locate, again as long as the daemon hangs up.
func (g *global) locateLiving(ctx context.Context) (client *api.Client, free string, err error) {
	client, free, err = g.locate(ctx)
	for pause := time.Millisecond; hungUp(err) && pause <= longestPause; pause *= 2 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
		client, free, err = g.locate(ctx)
	}
	return client, free, err
}

// hungUp reports whether a daemon closed the connection before it answered. So does a daemon that
// is killed, until the kernel has closed its listener, which takes longer the more sockets it has.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// locate asks at the sockets where the daemon can be. With api.ErrNoServer it returns the socket
// at which one can be started.
func (g *global) locate(ctx context.Context) (_ *api.Client, free string, err error) {
	// First, since it is a part of a socket's path.
	if err := engine.ValidateTableName(g.table); err != nil {
		return nil, "", err
	}
	inode, err := g.namespaceInode()
	if err != nil {
		return nil, "", err
	}
	if g.socket != "" {
		client, _, err := g.askGiven(ctx, inode)
		return client, g.socket, err
	}
	// Network namespaces share the files of /run: the first daemon has the default socket, and
	// those of other tables and namespaces are beside it.
	own := filepath.Join(filepath.Dir(defaultSocket), fmt.Sprintf("%s-%d.sock", g.table, inode))
	for _, path := range []string{defaultSocket, own} {
		client := api.NewClient(path)
		found, err := askWhich(ctx, client)
		switch {
		case errors.Is(err, api.ErrNoServer):
			if free == "" {
				free = path
			}
		case err != nil:
			return nil, "", err
		case found.NetNS == inode && found.Table == g.table:
			return client, "", nil
		}
	}
	if free == "" {
		return nil, "", fmt.Errorf("find a socket for a daemon: %s and %s are those of others", defaultSocket, own)
	}
	return nil, free, api.ErrNoServer
}

// askWhich asks which daemon it is. The daemon needs no privilege for that, so if it is not permitted
// the caller may not use the socket.
func askWhich(ctx context.Context, client *api.Client) (api.Daemon, error) {
	found, err := client.Daemon(ctx)
	if errors.Is(err, fs.ErrPermission) {
		err = hintedError{err, socketHint(client.Path())}
	}
	return found, err
}

// askGiven asks at the socket that was given. If a table or namespace was given too, the daemon
// has to have that one.
func (g *global) askGiven(ctx context.Context, inode uint64) (*api.Client, api.Daemon, error) {
	client := api.NewClient(g.socket)
	found, err := askWhich(ctx, client)
	switch {
	case err != nil:
		return nil, found, err
	case g.tableGiven && found.Table != g.table:
		return nil, found, usageError{fmt.Errorf("the daemon at %s has the table %s, not %s", g.socket, found.Table, g.table)}
	case g.netns != "" && found.NetNS != inode:
		return nil, found, usageError{fmt.Errorf("the daemon at %s is in another network namespace than %s", g.socket, g.netns)}
	}
	return client, found, nil
}

// namespaceInode is the number by which the kernel knows the network namespace that
// the command is for (namespaces(7)).
func (g *global) namespaceInode() (uint64, error) {
	inode, err := netns.Inode(g.namespacePath())
	if err != nil {
		return 0, usageError{fmt.Errorf("open network namespace: %w", err)}
	}
	return inode, nil
}

// namespacePath is the path of the network namespace, empty for the process's own.
func (g *global) namespacePath() string {
	if g.netns == "" || filepath.Base(g.netns) != g.netns {
		return g.netns
	}
	return filepath.Join(netns.Dir, g.netns)
}

// engineOptions are those of an engine for the table and namespace of the command.
func (g *global) engineOptions() (engine.Options, error) {
	path := g.namespacePath()
	if path != "" {
		if _, err := os.Stat(path); err != nil {
			return engine.Options{}, usageError{fmt.Errorf("open network namespace: %w", err)}
		}
	}
	return engine.Options{Table: g.table, NetNS: path, Log: g.logger()}, nil
}

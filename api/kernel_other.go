// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package api

import (
	"errors"
	"net"
)

// A server needs Linux; a client does not.

func peerOf(*net.UnixConn) (peer, error) { return peer{}, errors.ErrUnsupported }

func takeQueued(*net.UnixListener) (net.Conn, error) { return nil, errors.ErrUnsupported }

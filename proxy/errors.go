// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "errors"

// ErrClosed is returned by what is asked of a proxy, socket or group after it
// was closed.
var ErrClosed = errors.New("proxy closed")

// ErrAddr is wrapped by errors about addresses that cannot be a frontend or a
// backend: wrong type, port out of range, nothing to connect to.
var ErrAddr = errors.New("bad address")

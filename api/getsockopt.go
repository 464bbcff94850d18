// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build !386

package api

import "syscall"

const sysGetsockopt = syscall.SYS_GETSOCKOPT

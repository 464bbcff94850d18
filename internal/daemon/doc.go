// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package daemon is the process behind "nftnat serve": an engine with its HTTP API on a unix
// socket, metrics, a log of changes, a state file, and the handover to the next daemon.
//
// [Run] is the whole of it. It changes the process: it raises the limit of open files, enters
// the network namespace of the engine, and in the end confines the process for good (package
// confine). So it is for a process that does nothing else afterwards.
//
// [Start] runs this program as a daemon in the background and waits until it is ready. In the
// daemon [Background] drops what the process has inherited.
package daemon

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package handover passes the sockets of one daemon to the next one: messages with
// descriptors (SCM_RIGHTS, unix(7)) over a connected unix socket.
//
// It is a two-phase commit. Both have all sockets until the receiver says that it serves:
//
//	receiver         sender
//	Begin      ->            asks for the sockets, with the version that it speaks
//	           <-  Lend      sockets, in as many messages as it takes
//	           <-  EndOfList those were all
//	Ready      ->            it could serve now
//	           <-  Commit    from now on the receiver may change things
//	Committed  ->            the receiver's proxies serve
//	           <-  Released  the sender's do not any more
//
// In place of its next message each may send Abort with a reason, the sender until it has
// sent Commit. If the receiver aborts, or ends before Committed, the sender goes on as before.
// If the sender ends without Abort after EndOfList, the receiver has the sockets and goes on.
//
// A [Sender] and a [Receiver] are for one goroutine. Their methods are the steps, in order.
// When the context of a step is done the step ends with [os.ErrDeadlineExceeded].
//
// Be aware:
//   - All processes that have a socket share its address, queue, options and filters. A process
//     that gives one up closes it and does nothing else with it.
//   - As many descriptors can be on their way as a process may have open (RLIMIT_NOFILE of
//     the sender), unless it has CAP_SYS_RESOURCE.
package handover

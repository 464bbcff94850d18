// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package integration tests nftnat as a whole: real packets in network namespaces,
// against programs that nftnat's authors did not write (nft, conntrack, curl, dig,
// ping). It needs namespaces and says so where there are none; see package labtest.
//
// The files hold a promise each:
//
//	traffic_test.go     what is published is reached, and nothing else
//	conflict_test.go    one holder for each port, one engine for each table
//	hairpin_test.go     backends reach themselves and their siblings by a frontend
//	hairpin_mode_test.go, hairpin_move_test.go
//	                    bridge ports get hairpin mode for that, and are put back
//	transit_test.go     what passes through the host is left alone
//	loopback_test.go    loopback frontends answer nobody on the network
//	kill_test.go        a change that SIGKILL cut short is wholly done or undone
//	table_test.go       the table survives others, and others survive the table
//	adopt_test.go       what an engine takes over, puts right, and refuses
//	golden_test.go      the ruleset is what testdata/ruleset.nft says
//	hostile_test.go     what others write into the table does no harm
//	mutation_test.go    without any of its rules the ruleset fails
//	cli_test.go         the command line
//	bad_input_test.go   and all that it refuses, without a trace
//	udp_flows_test.go   flows follow a change at once, over UDP, and no others do
//	forwarding_test.go  of /proc/sys, forwarding is all that changes
//	icmp_error_test.go  errors come back about what was sent, by whoever found the fault
//	pmtu_test.go        and so TCP gets over wires that are narrower than its ends know
//	fragment_test.go    datagrams in fragments arrive whole
//	shadow_test.go      no backend takes what is for another's mapping
//	reachability_test.go who reaches what: docs/reachability.md
//	readme_test.go      README.md leads from a checkout to an installed and removed nftnat
//	docs_test.go        the commands in the other pages work as they say
//
// The rest are helpers, named after what they hold.
package integration

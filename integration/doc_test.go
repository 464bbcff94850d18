// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package integration tests nftnat as a whole, with real packets in network namespaces, and
// compares with programs of others (nft, conntrack, curl, dig, ping). It needs namespaces;
// see package labtest.
//
// Each of these files tests a promise:
//
//	traffic_test.go     what is published is reached, and nothing else
//	conflict_test.go    one holder for each port, one engine for each table
//	hairpin_test.go     backends reach themselves and their siblings by a frontend
//	hairpin_mode_test.go, hairpin_move_test.go
//	                    bridge ports get hairpin mode for that, and lose it again
//	transit_test.go     packets that pass through the host are not changed
//	loopback_test.go    loopback frontends do not answer the network
//	kill_test.go        a change interrupted by SIGKILL is wholly done or undone (see kill_case_test.go)
//	table_test.go       other programs and nftnat do not damage each other's tables
//	adopt_test.go       which tables an engine adopts, repairs or refuses
//	golden_test.go      the ruleset equals testdata/ruleset.nft
//	hostile_test.go     elements that others write into the table do no harm
//	mutation_test.go    each rule of the ruleset is needed
//	cli_test.go         the command line
//	explain_test.go     explain says what stops a packet, and changes nothing
//	bad_input_test.go   bad input changes nothing
//	udp_flows_test.go   UDP flows follow a change at once, and other flows are not affected
//	forwarding_test.go  only forwarding changes in /proc/sys
//	icmp_error_test.go  ICMP errors about translated packets reach their sender
//	pmtu_test.go        path MTU discovery works through a mapping
//	fragment_test.go    fragmented datagrams arrive
//	shadow_test.go      no backend gets packets for another one's mapping
//	reachability_test.go who reaches what: docs/reachability.md
//	readme_test.go      the commands in README.md work, from a checkout to removal
//	docs_test.go        the commands in the other pages work
//
// The other files have helpers, or tests of the daemon and the packages.
package integration

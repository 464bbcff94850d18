// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package igd is an Internet Gateway Device, as UPnP calls a router that publishes ports for
// its LAN: discovery (SSDP), a description, control (SOAP) and events (GENA). It speaks version 1
// or 2 of the device; version 1 has no trace of version 2, because consoles and Windows refuse
// what has.
//
// A client gets ports for its own address only. What it sends is read strictly and within bounds,
// and answered by the protocol's own error or not at all: no DTD, no name instead of an
// address, no event for another address than the subscriber's ([ADR 67]).
//
// [ADR 67]: https://github.com/nftnat/nftnat/blob/main/docs/adr/0067-igd.md
package igd

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Command portclients asks a gateway for ports by the libraries that programs in Go use:
//
//	portclients natpmp GATEWAY address
//	portclients natpmp GATEWAY map tcp|udp INTERNAL EXTERNAL SECONDS
//	portclients upnp discover
//	portclients upnp LOCATION address
//	portclients upnp LOCATION add tcp|udp EXTERNAL INTERNAL CLIENT SECONDS
//	portclients upnp LOCATION list
//	portclients upnp LOCATION rm tcp|udp EXTERNAL
//
// It is of a module of its own, for nftnat needs none of these libraries. TestGatewayGoClients builds and runs it.
package main

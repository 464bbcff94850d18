// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import "strings"

// An action is done for a client that has sent its arguments.
type action struct {
	name    string
	in, out []argument
	do      func(*call) *fault
}

// An argument is of the type of a state variable.
type argument struct{ name, variable string }

// A variable is a state variable of a service.
type variable struct {
	name    string
	kind    string   // string, boolean, ui2, ui4
	values  []string // that it may have; nil: any of the kind
	evented bool
}

// arguments reads "NewProtocol=PortMappingProtocol NewExternalPort"; without a variable the argument is
// New and the variable's name.
func arguments(text string) (args []argument) {
	for word := range strings.FieldsSeq(text) {
		name, v, ok := strings.Cut(word, "=")
		if !ok {
			v = strings.TrimPrefix(name, "New")
		}
		args = append(args, argument{name, v})
	}
	return args
}

// variables reads a line for each: its name, with "!" if it is evented, its kind, and what values it may have.
func variables(text string) (vars []variable) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		name, evented := strings.CutSuffix(words[0], "!")
		v := variable{name: name, kind: words[1], evented: evented}
		if len(words) > 2 {
			v.values = words[2:]
		}
		vars = append(vars, v)
	}
	return vars
}

// layer3Forwarding is UPnP Layer3Forwarding:1.
func layer3Forwarding() *service {
	return &service{
		name: "Layer3Forwarding", version: 1, id: "L3Forwarding1", path: "/l3f",
		actions: []action{
			{"SetDefaultConnectionService", arguments("NewDefaultConnectionService"), nil, forbidden},
			{"GetDefaultConnectionService", nil, arguments("NewDefaultConnectionService"), defaultConnection},
		},
		variables: variables("DefaultConnectionService! string\n"),
	}
}

// commonInterfaceConfig is UPnP WANCommonInterfaceConfig:1.
func commonInterfaceConfig() *service {
	return &service{
		name: "WANCommonInterfaceConfig", version: 1, id: "WANCommonIFC1", path: "/cif",
		actions: []action{
			{
				"GetCommonLinkProperties", nil,
				arguments("NewWANAccessType NewLayer1UpstreamMaxBitRate NewLayer1DownstreamMaxBitRate NewPhysicalLinkStatus"),
				linkProperties,
			},
			{"GetTotalBytesSent", nil, arguments("NewTotalBytesSent"), total(func(t *Traffic) uint64 { return t.BytesSent })},
			{"GetTotalBytesReceived", nil, arguments("NewTotalBytesReceived"), total(func(t *Traffic) uint64 { return t.BytesReceived })},
			{"GetTotalPacketsSent", nil, arguments("NewTotalPacketsSent"), total(func(t *Traffic) uint64 { return t.PacketsSent })},
			{"GetTotalPacketsReceived", nil, arguments("NewTotalPacketsReceived"), total(func(t *Traffic) uint64 { return t.PacketsReceived })},
		},
		variables: variables(
			"WANAccessType string DSL POTS Cable Ethernet\n" +
				"Layer1UpstreamMaxBitRate ui4\n" +
				"Layer1DownstreamMaxBitRate ui4\n" +
				"PhysicalLinkStatus! string " + linkUp + " " + linkDown + " Initializing " + linkUnavailable + "\n" +
				"TotalBytesSent ui4\n" +
				"TotalBytesReceived ui4\n" +
				"TotalPacketsSent ui4\n" +
				"TotalPacketsReceived ui4\n",
		),
	}
}

const (
	identity = "NewRemoteHost NewExternalPort NewProtocol=PortMappingProtocol "
	backend  = "NewInternalPort NewInternalClient NewEnabled=PortMappingEnabled NewPortMappingDescription NewLeaseDuration=PortMappingLeaseDuration"
	portSpan = "NewStartPort=ExternalPort NewEndPort=ExternalPort NewProtocol=PortMappingProtocol NewManage=A_ARG_TYPE_Manage "
)

// ipConnection is UPnP WANIPConnection:1 or WANIPConnection:2.
func ipConnection(v Version) *service {
	s := &service{
		name: "WANIPConnection", version: int(v), id: "WANIPConn1", path: "/ip",
		actions: []action{
			{"SetConnectionType", arguments("NewConnectionType"), nil, forbidden},
			{"GetConnectionTypeInfo", nil, arguments("NewConnectionType NewPossibleConnectionTypes"), connectionType},
			{"RequestConnection", nil, nil, requestConnection},
			{"ForceTermination", nil, nil, forbidden},
			{"GetStatusInfo", nil, arguments("NewConnectionStatus NewLastConnectionError NewUptime"), statusInfo},
			{"GetNATRSIPStatus", nil, arguments("NewRSIPAvailable NewNATEnabled"), natStatus},
			{"GetGenericPortMappingEntry", arguments("NewPortMappingIndex=PortMappingNumberOfEntries"), arguments(identity + backend), genericEntry},
			{"GetSpecificPortMappingEntry", arguments(identity), arguments(backend), specificEntry},
			{"AddPortMapping", arguments(identity + backend), nil, addMapping},
			{"DeletePortMapping", arguments(identity), nil, deleteMapping},
			{"GetExternalIPAddress", nil, arguments("NewExternalIPAddress"), externalAddress},
		},
		variables: variables(
			"ConnectionType string\n" +
				"PossibleConnectionTypes! string Unconfigured " + routed + " IP_Bridged\n" +
				"ConnectionStatus! string Unconfigured Connecting " + connected + " PendingDisconnect Disconnecting " + disconnected + "\n" +
				"Uptime ui4\n" +
				"LastConnectionError string " + noError + " ERROR_COMMAND_ABORTED ERROR_NOT_ENABLED_FOR_INTERNET ERROR_ISP_DISCONNECT ERROR_USER_DISCONNECT ERROR_IDLE_DISCONNECT ERROR_FORCED_DISCONNECT ERROR_NO_CARRIER ERROR_IP_CONFIGURATION ERROR_UNKNOWN\n" +
				"RSIPAvailable boolean\n" +
				"NATEnabled boolean\n" +
				"ExternalIPAddress! string\n" +
				"PortMappingNumberOfEntries! ui2\n" +
				"PortMappingEnabled boolean\n" +
				"PortMappingLeaseDuration ui4\n" +
				"RemoteHost string\n" +
				"ExternalPort ui2\n" +
				"InternalPort ui2\n" +
				"PortMappingProtocol string TCP UDP\n" +
				"InternalClient string\n" +
				"PortMappingDescription string\n",
		),
	}
	if v == V1 {
		return s
	}
	s.actions = append(s.actions,
		action{"AddAnyPortMapping", arguments(identity + backend), arguments("NewReservedPort=ExternalPort"), addAnyMapping},
		action{"DeletePortMappingRange", arguments(portSpan), nil, deleteRange},
		action{"GetListOfPortMappings", arguments(portSpan + "NewNumberOfPorts=PortMappingNumberOfEntries"), arguments(listing + "=A_ARG_TYPE_PortListing"), listMappings},
	)
	s.variables = append(s.variables, variables("SystemUpdateID! ui4\nA_ARG_TYPE_Manage boolean\nA_ARG_TYPE_PortListing string\n")...)
	return s
}

// v2 are the actions that WANIPConnection:1 does not have.
func (a *action) v2() bool {
	switch a.name {
	case "AddAnyPortMapping", "DeletePortMappingRange", "GetListOfPortMappings":
		return true
	}
	return false
}

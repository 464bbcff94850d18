// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"errors"
	"strconv"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lease"
)

// result is a result code of PCP (RFC 6887 section 7.4).
type result uint8

const (
	success result = iota
	unsuppVersion
	notAuthorized
	malformedRequest
	unsuppOpcode
	unsuppOption
	malformedOption
	networkFailure
	noResources
	unsuppProtocol
	userExQuota
	cannotProvideExternal
	addressMismatch
	excessiveRemotePeers
)

// What the RFC recommends as the lifetimes of errors.
const (
	shortError = 30 * time.Second
	longError  = 30 * time.Minute
)

// results are the codes with the names and lifetimes that the RFC gives them. CANNOT_PROVIDE_EXTERNAL is short,
// because who has the port may give it back at any time. Of a request that was not parsed, the answer has 96
// bits of the client's address where otherwise zeros are (section 7.2).
var results = [...]struct {
	name     string
	lifetime time.Duration
	unparsed bool
}{
	success:               {name: "SUCCESS"},
	unsuppVersion:         {name: "UNSUPP_VERSION", lifetime: longError, unparsed: true},
	notAuthorized:         {name: "NOT_AUTHORIZED", lifetime: longError},
	malformedRequest:      {name: "MALFORMED_REQUEST", lifetime: longError, unparsed: true},
	unsuppOpcode:          {name: "UNSUPP_OPCODE", lifetime: longError, unparsed: true},
	unsuppOption:          {name: "UNSUPP_OPTION", lifetime: longError},
	malformedOption:       {name: "MALFORMED_OPTION", lifetime: longError, unparsed: true},
	networkFailure:        {name: "NETWORK_FAILURE", lifetime: shortError},
	noResources:           {name: "NO_RESOURCES", lifetime: shortError},
	unsuppProtocol:        {name: "UNSUPP_PROTOCOL", lifetime: longError},
	userExQuota:           {name: "USER_EX_QUOTA", lifetime: shortError},
	cannotProvideExternal: {name: "CANNOT_PROVIDE_EXTERNAL", lifetime: shortError},
	addressMismatch:       {name: "ADDRESS_MISMATCH", lifetime: longError},
	excessiveRemotePeers:  {name: "EXCESSIVE_REMOTE_PEERS", lifetime: longError},
}

// String returns the RFC's name: "NOT_AUTHORIZED".
func (r result) String() string {
	if int(r) < len(results) {
		return results[r].name
	}
	return "result " + strconv.Itoa(int(r))
}

// lifetime is how long a client should expect the same error again.
func (r result) lifetime() time.Duration { return results[r].lifetime }

// resultOf is the code for an error of package lease.
func resultOf(err error, exact bool) result {
	switch {
	case err == nil:
		return success
	case errors.Is(err, lease.ErrDenied), errors.Is(err, lease.ErrKey), errors.Is(err, lease.ErrOther):
		return notAuthorized
	case errors.Is(err, lease.ErrTaken) && exact: // MUST be returned only then, section 7.4
		return cannotProvideExternal
	case errors.Is(err, lease.ErrQuota):
		return userExQuota
	case errors.Is(err, lease.ErrNoAddress):
		return networkFailure
	case errors.Is(err, lease.ErrSources):
		return excessiveRemotePeers
	default:
		return noResources
	}
}

// pmpResult is a result code of NAT-PMP (RFC 6886 section 3.5).
type pmpResult uint16

const (
	pmpSuccess pmpResult = iota
	pmpUnsuppVersion
	pmpNotAuthorized
	pmpNetworkFailure
	pmpNoResources
	pmpUnsuppOpcode
)

// pmpResults are the codes of NAT-PMP for those of PCP. All others are out of resources.
var pmpResults = map[result]pmpResult{
	success:        pmpSuccess,
	notAuthorized:  pmpNotAuthorized,
	networkFailure: pmpNetworkFailure,
}

// pmpResultOf is the code for an error of package lease.
func pmpResultOf(err error) pmpResult {
	if r, ok := pmpResults[resultOf(err, false)]; ok {
		return r
	}
	return pmpNoResources
}

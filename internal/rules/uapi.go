// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

// What include/uapi/linux/netfilter/nf_tables.h has and x/sys/unix does not.
const (
	nftaTableHandle   = 4
	nftaTableUserData = 6
	nftaTableOwner    = 7

	nftaChainFlags    = 10
	nftaChainUserData = 12

	chainBinding = 4

	nftaHookDevs     = 4
	nftaDeviceName   = 1
	nftaDevicePrefix = 2

	nftaSetHandle      = 16
	nftaSetExpr        = 17
	nftaSetExpressions = 18
	nftaSetDescConcat  = 2
	nftaSetFieldLen    = 1

	nftaSetElemKeyEnd      = 10
	nftaSetElemExpressions = 11
	setElemCatchall        = 2

	nftaBitwiseOp    = 6
	nftaBitwiseData  = 7
	nftaBitwiseSreg2 = 8

	nftaDynsetExpressions = 10

	nftaFlowTableName = 1

	nftaFlowtableTable = 1
	nftaFlowtableName  = 2
	nftaFlowtableHook  = 3
	nftaFlowtableFlags = 7

	nftaFlowtableHookNum      = 1
	nftaFlowtableHookPriority = 2
	nftaFlowtableHookDevs     = 3

	nftaConnlimitCount = 1
	nftaConnlimitFlags = 2

	nftaLastSet   = 1
	nftaLastMsecs = 2

	nftaTproxyFamily = 1
	nftaTproxyAddr   = 2
	nftaTproxyPort   = 3

	nftaFwdSregAddr = 2
	nftaFwdNfproto  = 3

	nftaSocketKey   = 1
	nftaSocketDreg  = 2
	nftaSocketLevel = 3

	nftaOsfDreg  = 1
	nftaOsfTTL   = 2
	nftaOsfFlags = 3

	nftaSynproxyMSS    = 1
	nftaSynproxyWscale = 2
	nftaSynproxyFlags  = 3

	nftaXfrmDreg  = 1
	nftaXfrmKey   = 2
	nftaXfrmDir   = 3
	nftaXfrmSpnum = 4

	nftaTunnelKey  = 1
	nftaTunnelDreg = 2
	nftaTunnelMode = 3

	nftaInnerNum     = 1
	nftaInnerType    = 2
	nftaInnerFlags   = 3
	nftaInnerHdrSize = 4
	nftaInnerExpr    = 5

	nftaObjHandle = 6

	nftaCTTimeoutL3Proto = 1
	nftaCTTimeoutL4Proto = 2
	nftaCTTimeoutData    = 3

	nftaCTExpectL3Proto = 1
	nftaCTExpectL4Proto = 2
	nftaCTExpectDport   = 3
	nftaCTExpectTimeout = 4
	nftaCTExpectSize    = 5

	nftaSecmarkCtx = 1
)

// Flags of expressions.
const (
	limitInvert     = 1
	connlimitInvert = 1
)

// Objects, NFT_OBJECT_*.
const (
	objCounter   = 1
	objQuota     = 2
	objCTHelper  = 3
	objLimit     = 4
	objConnLimit = 5
	objTunnel    = 6
	objCTTimeout = 7
	objSecmark   = 8
	objCTExpect  = 9
	objSynproxy  = 10
)

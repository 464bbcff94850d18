// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import "fmt"

// Register is where expressions keep data: the index of a field of 4 bytes, as in struct
// nft_regs of the kernel. Fields 0 to 3 are the verdict, NFT_REG_1 is 4, NFT_REG32_00 is 4.
type Register int

// Verdict is the register for verdicts.
const Verdict Register = 0

// String returns the register's field in words: "verdict", "register 4".
func (r Register) String() string {
	if r == Verdict {
		return "verdict"
	}
	return fmt.Sprintf("register %d", int(r))
}

// Expr is one expression of a rule.
type Expr interface{ expr() }

// Decision is what a verdict says, by its code of the kernel: NF_DROP 0, NF_ACCEPT 1,
// NF_QUEUE 3, NFT_CONTINUE -1, NFT_BREAK -2, NFT_JUMP -3, NFT_GOTO -4, NFT_RETURN -5.
type Decision struct {
	Code  int32
	Chain string // of a jump or goto
}

// The expressions of nf_tables, and those of iptables in nf_tables (Match and Target). Numbers
// are those of include/uapi/linux/netfilter/nf_tables.h. Data is in the byte order of the
// registers: as in the packet for payload, the host's for most of meta and ct.
type (
	// Immediate loads data, or a decision if Decision is set.
	Immediate struct {
		Dreg     Register
		Data     []byte
		Decision *Decision
	}
	// Cmp breaks off the rule unless data compares so (NFT_CMP_EQ and so on).
	Cmp struct {
		Sreg Register
		Op   uint32
		Data []byte
	}
	// Range breaks off the rule unless data is between two values; Not: if it is.
	Range struct {
		Sreg     Register
		Not      bool
		From, To []byte
	}
	// Bitwise is dreg = (sreg & Mask) ^ Xor, or a shift by Shift bits, or an operation of two
	// registers (NFT_BITWISE_MASK_XOR, LSHIFT, RSHIFT, AND, OR, XOR).
	Bitwise struct {
		Sreg, Sreg2, Dreg Register // Sreg2: zero if none
		Op                uint32
		Len               int
		Mask, Xor         []byte
		Shift             uint32
		Data              []byte // of AND, OR and XOR with a constant
	}
	// Byteorder swaps the bytes of each Size bytes (NFT_BYTEORDER_NTOH, HTON).
	Byteorder struct {
		Sreg, Dreg Register
		Op         uint32
		Len, Size  int
	}
	// Meta loads something about the packet, or sets it from Sreg if Set.
	Meta struct {
		Key        uint32
		Dreg, Sreg Register
		Set        bool
	}
	// CT is as Meta for the packet's connection. Direction is of IP_CT_DIR_*; negative: none.
	CT struct {
		Key        uint32
		Dreg, Sreg Register
		Set        bool
		Direction  int
	}
	// Payload loads bytes of the packet from Base (NFT_PAYLOAD_*), or writes them if Set, with a
	// checksum (NFT_PAYLOAD_CSUM_*).
	Payload struct {
		Base                            uint32
		Offset, Len                     int
		Dreg, Sreg                      Register
		Set                             bool
		CsumType, CsumOffset, CsumFlags uint32
	}
	// Exthdr loads an option or extension header, whether it is there (Present), or writes it.
	Exthdr struct {
		Op, Type, Flags uint32
		Offset, Len     int
		Dreg, Sreg      Register
		Set, Present    bool
	}
	// Lookup breaks off the rule unless a set has the key at Sreg; Not: if it has. With Map, Dreg gets the
	// element's data, or the register Verdict its decision.
	Lookup struct {
		Set      string
		Sreg     Register
		Map, Not bool
		Dreg     Register
	}
	// Dynset adds, updates or deletes an element (NFT_DYNSET_OP_*); Not inverts whether the rule goes on.
	Dynset struct {
		Set             string
		Op              uint32
		KeyReg, DataReg Register
		Not             bool
		Exprs           []Expr
		Timeout         uint64 // in milliseconds
	}
	// Fib loads the result of a look-up of the routing table (NFT_FIB_RESULT_*, NFTA_FIB_F_*).
	Fib struct {
		Result, Flags uint32
		Dreg          Register
	}
	// Nat translates (NFT_NAT_SNAT, NFT_NAT_DNAT); a register of zero is not used.
	Nat struct {
		Type, Family, Flags                uint32
		AddrMin, AddrMax, PortMin, PortMax Register
	}
	// Redir translates the destination to the host itself.
	Redir struct {
		PortMin, PortMax Register
		Flags            uint32
	}
	// Masq translates the source to an address of the way out.
	Masq struct {
		PortMin, PortMax Register
		Flags            uint32
	}
	// Reject drops and answers (NFT_REJECT_*).
	Reject struct {
		Type uint32
		Code uint8
	}
	// Limit breaks off the rule above a rate; Over: below it.
	Limit struct {
		Rate, Unit uint64 // Unit in seconds
		Burst      uint32
		Type       uint32 // NFT_LIMIT_PKTS, NFT_LIMIT_PKT_BYTES
		Over       bool
	}
	// Counter counts.
	Counter struct{ Packets, Bytes uint64 }
	// Quota breaks off the rule while fewer bytes have passed; Over: when more have.
	Quota struct {
		Bytes, Used uint64
		Over        bool
	}
	// ConnLimit breaks off the rule above a number of connections; Over: below it.
	ConnLimit struct {
		Count uint32
		Over  bool
	}
	// Log logs.
	Log struct {
		Prefix       string
		Group        int // negative: none
		Level, Flags uint32
		Snaplen      uint32
		QThreshold   uint32
	}
	// Notrack keeps the packet from connection tracking.
	Notrack struct{}
	// Rt loads something of the packet's route (NFT_RT_*).
	Rt struct {
		Key  uint32
		Dreg Register
	}
	// Socket loads something of the socket that takes the packet (NFT_SOCKET_*).
	Socket struct {
		Key, Level uint32
		Dreg       Register
	}
	// Numgen loads a number that counts up or is random (NFT_NG_*).
	Numgen struct {
		Modulus, Type, Offset uint32
		Dreg                  Register
	}
	// Hash loads a hash (NFT_HASH_*) of Len bytes at Sreg. Seeded is set if Seed was chosen.
	Hash struct {
		Type, Seed, Modulus, Offset uint32
		Seeded                      bool
		Sreg, Dreg                  Register
		Len                         int
	}
	// Queue gives the packet to a program.
	Queue struct {
		First, Total, Flags uint32   // Total: how many numbers
		Sreg                Register // of the number, if not zero
	}
	// Dup sends a copy elsewhere.
	Dup struct{ Addr, Dev Register }
	// Fwd sends the packet out of an interface.
	Fwd struct {
		Dev, Addr Register
		Family    uint32
	}
	// Tproxy gives the packet to a local socket.
	Tproxy struct {
		Family     uint32
		Addr, Port Register
	}
	// Synproxy answers in place of the destination.
	Synproxy struct{ MSS, Wscale, Flags uint32 }
	// Flow offers the connection to a flow table.
	Flow struct{ Table string }
	// Objref uses a named object (NFT_OBJECT_*), or the one that a map has for a key.
	Objref struct {
		Type uint32
		Name string
		Map  string
		Sreg Register
	}
	// Last notes when a packet came last: Ago milliseconds before it was read, if one has come.
	Last struct {
		Seen bool
		Ago  uint64
	}
	// OSF loads the name of the operating system that a SYN looks like.
	OSF struct {
		Dreg  Register
		TTL   uint8
		Flags uint32
	}
	// Xfrm loads something of the packet's IPsec (NFT_XFRM_KEY_*). Dir is XFRM_POLICY_IN or OUT,
	// Number that of the transformation.
	Xfrm struct {
		Dreg        Register
		Key, Number uint32
		Dir         uint8
	}
	// Tunnel loads something of the tunnel that the packet came by (NFT_TUNNEL_*).
	Tunnel struct {
		Key, Mode uint32
		Dreg      Register
	}
	// Inner applies an expression to the packet within a tunnel's packet.
	Inner struct {
		Num, Type, Flags, HeaderLen uint32
		Expr                        Expr
	}
	// CTHelper is an object: a helper of connection tracking.
	CTHelper struct {
		Name    string
		L3Proto uint16
		L4Proto uint8
	}
	// CTTimeout is an object: time-outs of connections, in seconds, by the number of their state.
	CTTimeout struct {
		L3Proto  uint16
		L4Proto  uint8
		Timeouts map[uint16]uint32
	}
	// CTExpectation is an object: a connection to expect.
	CTExpectation struct {
		L3Proto uint16
		L4Proto uint8
		Port    uint16
		Timeout uint32 // in milliseconds
		Size    uint8
	}
	// Secmark is an object: a security context.
	Secmark struct{ Context string }
	// Match is a match of iptables.
	Match struct {
		Name string
		Rev  uint32
		Info []byte
	}
	// Target is a target of iptables.
	Target struct {
		Name string
		Rev  uint32
		Info []byte
	}
	// Unknown is an expression that is not read, by the name that the kernel has for it.
	Unknown struct {
		Name string
		Data []byte
	}
)

func (Immediate) expr()     {}
func (Cmp) expr()           {}
func (Range) expr()         {}
func (Bitwise) expr()       {}
func (Byteorder) expr()     {}
func (Meta) expr()          {}
func (CT) expr()            {}
func (Payload) expr()       {}
func (Exthdr) expr()        {}
func (Lookup) expr()        {}
func (Dynset) expr()        {}
func (Fib) expr()           {}
func (Nat) expr()           {}
func (Redir) expr()         {}
func (Masq) expr()          {}
func (Reject) expr()        {}
func (Limit) expr()         {}
func (Counter) expr()       {}
func (Quota) expr()         {}
func (ConnLimit) expr()     {}
func (Log) expr()           {}
func (Notrack) expr()       {}
func (Rt) expr()            {}
func (Socket) expr()        {}
func (Numgen) expr()        {}
func (Hash) expr()          {}
func (Queue) expr()         {}
func (Dup) expr()           {}
func (Fwd) expr()           {}
func (Tproxy) expr()        {}
func (Synproxy) expr()      {}
func (Flow) expr()          {}
func (Objref) expr()        {}
func (Last) expr()          {}
func (OSF) expr()           {}
func (Xfrm) expr()          {}
func (Tunnel) expr()        {}
func (Inner) expr()         {}
func (CTHelper) expr()      {}
func (CTTimeout) expr()     {}
func (CTExpectation) expr() {}
func (Secmark) expr()       {}
func (Match) expr()         {}
func (Target) expr()        {}
func (Unknown) expr()       {}

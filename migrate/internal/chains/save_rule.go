// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// saved reads the options of a rule.
type saved struct {
	*condition
	rule  *Rule
	words []string
	six   bool
	match string // the match whose options come
	proto string
}

func (s *saved) next(option string) (string, error) {
	if len(s.words) == 0 {
		return "", fmt.Errorf("%s has no value", option)
	}
	w := s.words[0]
	s.words = s.words[1:]
	return w, nil
}

func (s *saved) read() error {
	for len(s.words) != 0 {
		option := s.words[0]
		s.words = s.words[1:]
		not := option == "!"
		if not {
			var err error
			if option, err = s.next("!"); err != nil {
				return err
			}
		}
		if err := s.option(option, not); err != nil {
			return err
		}
	}
	return nil
}

// option reads an option and its values.
func (s *saved) option(option string, not bool) error {
	value := func() (string, error) { return s.next(option) }
	switch option {
	case "-p", "--protocol", "--proto":
		v, err := value()
		if err != nil {
			return err
		}
		return s.protocol(not, v)
	case "-s", "--source", "--src", "-d", "--destination", "--dst":
		v, err := value()
		if err != nil {
			return err
		}
		return s.addresses(strings.HasPrefix(strings.TrimLeft(option, "-"), "s"), not, v)
	case "-i", "--in-interface":
		v, err := value()
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(v, "+"):
			s.only(negated(not, "interface "+v))
		default:
			s.link(not, v)
		}
		return nil
	case "-o", "--out-interface":
		v, err := value()
		if err == nil {
			s.only(negated(not, outgoing(v)))
		}
		return err
	case "-f", "--fragment":
		if !not {
			s.never()
		}
		return nil
	case "-m", "--match":
		v, err := value()
		if s.match = v; err == nil && !slices.Contains(knownMatches(), v) {
			s.unknownMatch()
		}
		return err
	case "-j", "--jump", "-g", "--goto":
		v, err := value()
		if err != nil {
			return err
		}
		return s.target(v, option == "-g" || option == "--goto")
	case "-c", "--set-counters":
		for range 2 {
			if _, err := value(); err != nil {
				return err
			}
		}
		return nil
	}
	if !strings.HasPrefix(option, "-") {
		return fmt.Errorf("%q is no option", excerpt(option))
	}
	known, err := s.matchOption(option, not)
	if err != nil || known {
		return err
	}
	// Of an option that is not known, what follows up to the next option is its value.
	end := slices.IndexFunc(s.words, func(w string) bool { return strings.HasPrefix(w, "-") || w == "!" })
	if end < 0 {
		end = len(s.words)
	}
	text := strings.Join(append([]string{negated(not, option)}, s.words[:end]...), " ")
	s.words = s.words[end:]
	if s.match != "" {
		text = "-m " + s.match + " " + text
	}
	s.only(text)
	return nil
}

// knownMatches are those of which options are read.
func knownMatches() []string {
	return []string{"tcp", "udp", "multiport", "comment", "addrtype", "conntrack", "state", "iprange"}
}

// unknownMatch passes over the options of a match that is not known.
func (s *saved) unknownMatch() {
	common := []string{
		"-m", "--match", "-j", "--jump", "-g", "--goto", "-p", "--protocol", "-s", "--source", "-d", "--destination", "-i", "--in-interface", "-o", "--out-interface", "-f",
	}
	end := 0
	for end < len(s.words) && !slices.Contains(common, s.words[end]) && (s.words[end] != "!" || end+1 == len(s.words) || !slices.Contains(common, s.words[end+1])) {
		end++
	}
	s.only(strings.Join(append([]string{"-m " + s.match}, s.words[:end]...), " "))
	s.words = s.words[end:]
}

func (s *saved) protocol(not bool, v string) error {
	numbers := map[string]uint8{
		"all": 0, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6, "ipv6-icmp": unix.IPPROTO_ICMPV6,
		"sctp": unix.IPPROTO_SCTP, "dccp": unix.IPPROTO_DCCP, "udplite": unix.IPPROTO_UDPLITE, "esp": unix.IPPROTO_ESP, "ah": unix.IPPROTO_AH, "gre": unix.IPPROTO_GRE,
	}
	n, ok := numbers[strings.ToLower(v)]
	if !ok {
		const other = 255
		n = other // a name of /etc/protocols
		if number, err := strconv.ParseUint(v, 10, 8); err == nil {
			n = uint8(number)
		}
	}
	s.proto = v
	s.condition.proto(not, n)
	return nil
}

// addresses reads addresses with masks, separated by commas.
func (s *saved) addresses(source, not bool, v string) error {
	var spans []packets.Span
	for text := range strings.SplitSeq(v, ",") {
		addr, mask, given := strings.Cut(text, "/")
		a, err := netip.ParseAddr(addr)
		if err != nil || a.Is6() != s.six || a.Zone() != "" {
			return fmt.Errorf("%q is no address", excerpt(text))
		}
		bits := a.BitLen()
		if given {
			if n, err := strconv.Atoi(mask); err == nil && n >= 0 && n <= bits {
				bits = n
			} else if m, err := netip.ParseAddr(mask); err == nil && m.Is6() == s.six {
				if n, ok := prefixBits(m.AsSlice()); ok {
					bits = n
				} else {
					s.masked(source, not, a, m)
					return nil
				}
			} else {
				return fmt.Errorf("%q is no mask", excerpt(mask))
			}
		}
		spans = append(spans, packets.SpanOf(netip.PrefixFrom(a, bits)))
	}
	s.addr(source, not, spans...)
	return nil
}

// matchOption reads an option of a match; false: it is not known.
func (s *saved) matchOption(option string, not bool) (known bool, err error) {
	value := func() string {
		var v string
		if v, err = s.next(option); err != nil {
			return ""
		}
		return v
	}
	switch option {
	case "--comment":
		value()
	case "--dport", "--destination-port", "--dports", "--destination-ports":
		if s.match == "multiport" != strings.HasSuffix(option, "s") || !slices.Contains([]string{"tcp", "udp", "multiport", "sctp", "dccp", "udplite", ""}, s.match) {
			return false, nil
		}
		var ranges [][2]uint16
		if ranges, err = parsePorts(value(), err); err == nil {
			s.ports(not, ranges...)
		}
	case "--sport", "--source-port", "--sports", "--source-ports", "--ports":
		s.only(negated(not, "source port "+value()))
	case "--dst-type":
		types := strings.Split(strings.ToUpper(value()), ",")
		s.local(slices.Contains(types, "LOCAL") == not)
	case "--state", "--ctstate":
		states := strings.Split(strings.ToUpper(value()), ",")
		s.state(not, slices.Contains(states, "NEW"))
	case "--syn":
		s.tcpFlags(not, 0x17, 0x02)
	case "--tcp-flags":
		mask, flags := value(), ""
		if err == nil {
			flags = value()
		}
		s.tcpFlags(not, tcpFlags(mask), tcpFlags(flags))
	case "--dst-range", "--src-range":
		v := value()
		first, last, _ := strings.Cut(v, "-")
		a, errA := netip.ParseAddr(first)
		b, errB := netip.ParseAddr(last)
		switch {
		case err != nil:
		case errA != nil || errB != nil || a.Is6() != s.six || b.Is6() != s.six || b.Less(a):
			err = fmt.Errorf("%q is no range of addresses", excerpt(v))
		default:
			s.addr(option == "--src-range", not, packets.Span{First: a, Last: b})
		}
	default:
		return false, nil
	}
	return true, err
}

func tcpFlags(text string) (flags uint8) {
	bits := map[string]uint8{"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63}
	for name := range strings.SplitSeq(strings.ToUpper(text), ",") {
		flags |= bits[name]
	}
	return flags
}

// parsePorts reads 80, 80:89 and lists of them.
func parsePorts(text string, err error) (ranges [][2]uint16, _ error) {
	if err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, given := strings.Cut(part, ":")
		if !given {
			last = first
		}
		if given && first == "" {
			first = "0"
		}
		if given && last == "" {
			last = "65535"
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("%q are no ports", excerpt(part))
		}
		ranges = append(ranges, [2]uint16{uint16(a), uint16(b)})
	}
	return ranges, nil
}

// target reads a target and its options.
func (s *saved) target(name string, goes bool) error {
	r := s.rule
	s.match = ""
	if s.rule.Chain.Table.Chain(name) != nil {
		r.Action, r.Target = Jump, name
		if goes {
			r.Action = Goto
		}
		return nil
	}
	switch name {
	case "ACCEPT":
		r.Action = Accept
	case "DROP":
		r.Action = Drop
	case "RETURN":
		r.Action = Return
	case "DNAT":
		r.Action = Translate
		return s.destination()
	case "REDIRECT":
		r.Action = Redirect
	case "SNAT", "MASQUERADE":
		r.Action = Hide
	case "NETMAP":
		r.Action, r.To.Fault = Translate, "it translates a network to another one"
	case "MARK", "CONNMARK", "HMARK":
		r.Action = Mark
	case "LOG", "NFLOG", "TRACE", "SET", "CT", "NOTRACK", "TCPMSS", "TEE", "CLASSIFY", "TTL", "HL", "TOS", "DSCP":
		r.Action = Continue
		if slices.Contains(s.words, "--map-mark") {
			r.Action = Mark
		}
	default:
		r.Action = Unknown
		s.only("-j " + name)
	}
	s.words = nil // of the target
	return nil
}

// destination reads the options of DNAT.
func (s *saved) destination() error {
	to := &s.rule.To
	var flags uint32
	for len(s.words) != 0 {
		option, _ := s.next("")
		switch option {
		case "--to-destination":
			v, err := s.next(option)
			if err != nil {
				return err
			}
			if to.Addr.IsValid() || to.First != 0 {
				to.Fault = "it goes to any of several addresses"
				continue
			}
			if err := to.parse(v, s.six); err != nil {
				return err
			}
		case "--random":
			flags |= unix.NF_NAT_RANGE_PROTO_RANDOM
		case "--persistent":
		default:
			return fmt.Errorf("%q is no option of DNAT", excerpt(option))
		}
	}
	if !to.Addr.IsValid() && to.First == 0 && to.Fault == "" {
		return fmt.Errorf("DNAT has no --to-destination")
	}
	to.flags(flags)
	return nil
}

// parse reads [ADDR[-ADDR]][:PORT[-PORT[/PORT]]].
func (t *Target) parse(v string, six bool) error {
	bad := fmt.Errorf("%q is no destination", excerpt(v))
	addr, ports := v, ""
	if rest, ok := strings.CutPrefix(v, "["); ok && six {
		var closed bool
		if addr, ports, closed = strings.Cut(rest, "]"); !closed {
			return bad
		}
		if ports, ok = strings.CutPrefix(ports, ":"); !ok && ports != "" {
			return bad
		}
	} else if !six {
		addr, ports, _ = strings.Cut(v, ":")
	}
	if addr != "" {
		first, last, several := strings.Cut(addr, "-")
		a, err := netip.ParseAddr(first)
		if err != nil || a.Is6() != six || a.Zone() != "" {
			return bad
		}
		if t.Addr = a; several {
			b, err := netip.ParseAddr(last)
			if err != nil || b.Is6() != six {
				return bad
			}
			if a != b {
				t.Fault = "it goes to any of several addresses"
			}
		}
	}
	if ports == "" {
		return nil
	}
	ports, base, shifted := strings.Cut(ports, "/")
	first, last, several := strings.Cut(ports, "-")
	if !several {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a > b || a == 0 {
		return bad
	}
	t.First, t.Last = uint16(a), uint16(b)
	if shifted {
		n, err := strconv.ParseUint(base, 10, 16)
		if err != nil {
			return bad
		}
		t.Shifted, t.Base = true, uint16(n)
	}
	return nil
}

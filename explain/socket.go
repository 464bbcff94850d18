// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/nat"
)

// local delivers the packet to a socket of this host.
func (x *walk) local(w *way) []*way {
	w.done = true
	in := w.p.In
	if in.Index == 0 {
		in = x.device(w.in).asked
	}
	w.p.In, w.p.Out = in, eval.Interface{}
	return run(w.on(), x.hook(eval.Input), x.ipsec(host.XFRMIn), x.socket)
}

// socket finds the socket that takes the packet.
func (x *walk) socket(w *way) []*way {
	to := netip.AddrPortFrom(w.p.Dst, w.p.DstPort)
	s, err := x.facts.Listener(x.proto, to, w.p.In.Index)
	if err != nil {
		w.unread("sockets", err)
		return w.on()
	}
	if w.path == ByNetfilter { // the backend is an address of this host
		if s == nil {
			return w.halt(Cause{Kind: KindBackend, Thing: "backend " + to.String(), What: "is this host, and nothing listens on it", Remedy: "start the server"})
		}
		w.step("input", "%s", s)
		w.done = true
		return x.reverse(w)
	}
	why, by := x.lacks(w), ""
	if s == nil && !x.mapping.NoProxy {
		// Ports of ranges may have no sockets: a program of eBPF finds that of the proxy.
		switch p := x.facts.LeadsPorts(x.pid, program); {
		case p != nil && x.isClientPort(to.Port()):
			why.What += "; the port is one of ip_local_port_range, and of these the proxies of ranges serve none over UDP"
			why.Remedy = "publish UDP ports outside of net.ipv4.ip_local_port_range"
		case p != nil:
			s = &host.Socket{Proto: x.proto, Addr: to, Limit: 1, Process: p}
			by = ", by eBPF"
		}
	}
	if s == nil {
		if why.Remedy == "" {
			why.Remedy = "nftnat serve: a daemon has the proxies"
			if x.mapping.NoProxy {
				why.Remedy = fmt.Sprintf("nftnat add %s %s %s --replace", x.mapping.Proto, x.mapping.FrontendText(), x.mapping.BackendText())
			}
		}
		why.What += fmt.Sprintf("; nothing listens on %s", to)
		w.step("input", "nothing listens on %s", to)
		return w.halt(why)
	}
	if !x.proxies(s) {
		w.step("input", "%s", s)
		if x.mapping.Hold == nat.HoldShared {
			return w.halt(Cause{
				Kind: KindSocket, Thing: "socket " + s.String(), What: why.Thing + " " + why.What + "; this program has the port, which is shared with it",
				Remedy: "publish it to a backend of the client's family as well, or have the program give it up and publish it with --hold own",
			})
		}
		return w.halt(Cause{
			Kind: KindSocket, Thing: "socket " + s.String(), What: why.Thing + " " + why.What + "; this program, which is no proxy of the mapping, takes it",
			Remedy: fmt.Sprintf("end process %d, or publish another port", s.Process.PID),
		})
	}
	if x.mapping.NoProxy {
		why.What += "; the mapping has no proxy (--no-proxy)"
		why.Remedy = fmt.Sprintf("nftnat add %s %s %s --replace", x.mapping.Proto, x.mapping.FrontendText(), x.mapping.BackendText())
		w.step("input", "%s holds the port and takes nothing", s)
		return w.halt(why)
	}
	if s.Process != nil && x.facts.Stopped(s.Process.PID) {
		return w.halt(Cause{Kind: KindSocket, Thing: "socket " + s.String(), What: "its process has been stopped by a signal", Remedy: fmt.Sprintf("kill -CONT %d", s.Process.PID)})
	}
	if s.Full() {
		return w.halt(Cause{Kind: KindSocket, Thing: "socket " + s.String(), What: fmt.Sprintf("its queue is full: %d connections wait, and no more than %d may", s.Queue, s.Limit), Remedy: "see why the proxy accepts none"})
	}
	w.path, w.proxy = ByProxy, s.Process
	w.step("input", "proxy%s: %s", by, s)
	return x.proxied(w)
}

// proxies reports whether a socket is one of the proxies.
func (x *walk) proxies(s *host.Socket) bool {
	if s.Process == nil {
		return true // who has it cannot be read
	}
	if x.pid != 0 {
		return s.Process.PID == x.pid
	}
	return s.Process.Command == program
}

// program is the name of the process that has the proxies.
const program = "nftnat"

// isClientPort reports whether the kernel gives a port to sockets over UDP: what these wait for would come to the proxy, if eBPF
// led the port there.
func (x *walk) isClientPort(port uint16) bool {
	if x.proto != unix.IPPROTO_UDP {
		return false
	}
	first, last, err := x.facts.LocalPorts()
	return err == nil && first <= port && port <= last
}

// isLed reports whether programs of eBPF lead a socket of this host that asks for the client's frontend straight to
// the backend. TFTP is left to the proxies, because its servers answer from other ports.
func (x *walk) isLed(c client) bool {
	to := c.to.Addr()
	tftp := x.mapping.Proto == nat.UDP && x.backend().Port() == 69
	return c.local && to.IsLoopback() && !x.mapping.NoProxy && !x.mapping.ProxyOnly && !tftp && (to.Is6() || x.backend().Addr().Is4()) &&
		x.facts.LeadsLocalhost(x.pid, program)
}

// connect follows the connection of a socket that is led to the backend, and its answer.
func (x *walk) connect(w *way) []*way {
	w.path = ByBPF
	w.proxies = true // a connection of this host
	own := x.outward(x.backend())
	if own == nil {
		w.p.Dst, w.p.DstPort = x.backend().Addr(), x.backend().Port()
		w.p.Src = netip.Addr{}
		if x.route(w, 0); w.stop == nil {
			w.halt(Cause{Kind: KindRoute, Thing: "backend " + x.backend().String(), What: "this host has no route to it"})
		}
		return w.on()
	}
	w.p = own.p
	w.step("connect", "eBPF: the socket is led to the backend: %s", packetText(&w.p))
	return run(w.on(), x.send(x.hook(eval.Input)), func(w *way) []*way {
		if w.r.Type == unix.RTN_LOCAL {
			return w.on()
		}
		return run(w.on(), x.arrived, x.answers)
	}, func(w *way) []*way {
		w.path, w.done = ByBPF, true
		return w.on()
	})
}

// proxied follows the proxy's connection to the backend, and then its answer to the client.
func (x *walk) proxied(w *way) []*way {
	request := w.p
	own := x.outward(x.backend())
	if own == nil {
		w.p.Dst, w.p.DstPort = x.backend().Addr(), x.backend().Port()
		w.p.Src = netip.Addr{}
		w.proxies = true
		if x.route(w, 0); w.stop == nil {
			w.halt(Cause{Kind: KindRoute, Thing: "backend " + x.backend().String(), What: "the proxy has no route to it"})
		}
		return w.on()
	}
	w.p = own.p
	w.proxies = true
	x.noteOwner(w)
	w.step("proxy", "%s", packetText(&w.p))
	return run(w.on(), x.send(x.hook(eval.Input)), func(w *way) []*way {
		if w.r.Type == unix.RTN_LOCAL {
			return w.on()
		}
		return run(w.on(), x.arrived, x.answers)
	}, func(w *way) []*way {
		w.proxies = false
		w.path = ByProxy
		w.p = request
		return x.reverse(w)
	})
}

// noteOwner notes whose packet one of the proxy is.
func (x *walk) noteOwner(w *way) {
	if w.proxy == nil {
		return
	}
	uid, gid, err := x.facts.Owner(w.proxy.PID)
	w.p.UID, w.p.GID, w.p.OwnerKnown = uid, gid, err == nil
}

// reverse follows the answer of a socket of this host to the client.
func (x *walk) reverse(w *way) []*way {
	reply(w)
	x.noteOwner(w)
	w.answer, w.done = true, true
	w.in = 0
	to := x.client
	w.step("proxy", "%s", packetText(&w.p))
	return run(w.on(), x.send(x.hook(eval.Input)), func(w *way) []*way {
		if to.local {
			return w.on()
		}
		return run(x.sameWay(to.in)(w), x.furtherIn)
	})
}

// furtherIn follows the packets of a client of this host that come after the answer, as far as
// rules can stop them that let the first one pass.
func (x *walk) furtherIn(w *way) []*way {
	after, steps, in := w.p, w.steps, x.device(x.client.in)
	w.answer, w.later = false, true
	reply(w)
	if x.proto == unix.IPPROTO_TCP {
		w.p.TCPFlags = tcpACK
	}
	w.p.CT.Reply = false
	w.p.In, w.p.SrcMAC, w.p.DstMAC = in.asked, x.macOf(x.client.hop, in.Index), in.MAC
	ways := run(w.on(), x.hook(eval.Prerouting), x.hook(eval.Input))
	for _, w := range ways {
		w.p, w.answer, w.later = after, true, false
		if w.stop == nil {
			w.steps = steps
		}
	}
	return ways
}

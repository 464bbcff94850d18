// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"net/http"
	"time"
)

// Status is how a daemon is and what it has to do.
type Status struct {
	// PID is its process, as its own PID namespace numbers it.
	PID int `json:"pid"`
	// Version is that of the program.
	Version string `json:"version"`
	// NetNS is the inode by which the kernel knows the network namespace that the
	// daemon works in (namespaces(7)).
	NetNS uint64 `json:"netns"`
	// Started is when it began to serve. Zero: no daemon answers.
	Started time.Time `json:"started,omitzero"`
	// Uptime is for how long it has served, in whole seconds.
	Uptime int64 `json:"uptime"`
	// Table is what holds the mappings.
	Table TableStatus `json:"table"`
	// Mappings is how many ports are published.
	Mappings MappingCounts `json:"mappings"`
	// Networks and Endpoints are how many there are.
	Networks  int `json:"networks"`
	Endpoints int `json:"endpoints"`
	// Proxies is how many mappings have a userland proxy.
	Proxies int `json:"proxies"`
	// Loopback is how clients on loopback addresses are served; nil: they are not, as far as is known.
	Loopback *Loopback `json:"loopback,omitempty"`
	// Flows is what the proxies carry now.
	Flows FlowCounts `json:"flows"`
	// Conntrack is how full the connection tracking table of the namespace is; nil
	// if that is not known, as where the kernel has not loaded it yet.
	Conntrack *Conntrack `json:"conntrack,omitempty"`
	// Forwarding is whether the kernel forwards packets.
	Forwarding Forwarding `json:"forwarding"`
	// Confinement is what the daemon has left itself of its privileges; nil: it is not
	// known.
	Confinement *Confinement `json:"confinement,omitempty"`
	// MissingFeatures are features of the kernel that the daemon would use and that are not there,
	// or not allowed to it; nil: none is missing, as far as is known.
	MissingFeatures []MissingFeature `json:"lacks,omitempty"`
	// Warnings are what somebody should look into, a line each. Nil is sent as an
	// empty array.
	Warnings []string `json:"warnings"`
	// Findings are what the daemon has found to be wrong with ports and host, as doctor would say, a
	// line each, the worst first; nil: nothing, as far as is known.
	Findings []string `json:"findings,omitempty"`
}

// Progress is the progress of the change that a daemon is making for any client.
type Progress struct {
	// Step is what it is at: "reserve", "bind", "forward", "commit", "save", "flows",
	// "open", "done". Others may be added. Empty: it is changing nothing.
	Step string `json:"step"`
	// Done and Total are how many ports the step is through with and how many it is
	// about. A Total of zero: it is taken for all at once.
	Done  int `json:"done"`
	Total int `json:"total"`
}

// TableStatus is the state of the nftables table.
type TableStatus struct {
	// Name is its name, in the inet family.
	Name string `json:"name"`
	// Owned is whether the kernel refuses changes of it to everybody else. If it
	// does not, the daemon repairs what others do to it.
	Owned bool `json:"owned"`
	// Repaired is how often the daemon has put the table right after others had changed
	// it.
	Repaired int `json:"repaired"`
}

// MappingCounts are numbers of published ports by protocol.
type MappingCounts struct {
	TCP FamilyCounts `json:"tcp"`
	UDP FamilyCounts `json:"udp"`
}

// FamilyCounts are numbers of published ports by the family of their backends.
type FamilyCounts struct {
	IPv4 int `json:"ipv4"`
	IPv6 int `json:"ipv6"`
}

// FlowCounts are numbers of flows by protocol.
type FlowCounts struct {
	// TCP is the number of connections that are open.
	TCP int `json:"tcp"`
	// UDP is the number of flows that have not been idle for long enough to end.
	UDP int `json:"udp"`
}

// Conntrack is how full the connection tracking table is.
type Conntrack struct {
	// Count is the number of flows in it, other programs' included.
	Count int `json:"count"`
	// Max is when the kernel begins to drop new ones; 0: never.
	Max int `json:"max"`
}

// Forwarding is whether the kernel forwards packets, by family.
type Forwarding struct {
	IPv4 ForwardingState `json:"ipv4"`
	IPv6 ForwardingState `json:"ipv6"`
}

// ForwardingState says for which interfaces the kernel forwards.
type ForwardingState string

// The states of forwarding.
const (
	ForwardingOff    ForwardingState = "off"
	ForwardingOn     ForwardingState = "on"
	ForwardingPartly ForwardingState = "partly" // for some interfaces
)

// Confinement is what a daemon has left itself of its privileges.
type Confinement struct {
	// Capabilities are the names of those that it has, as capabilities(7) has them; nil:
	// they could not be dropped.
	Capabilities []string `json:"capabilities,omitzero"`
	// NoNewPrivileges is whether nothing that it executes can gain any.
	NoNewPrivileges bool `json:"no_new_privileges"`
	// Landlock is the version of the interface by which the files that it can open are
	// restricted; 0: they are not.
	Landlock int `json:"landlock"`
	// SystemCalls is how many system calls it can make; 0: all.
	SystemCalls int `json:"system_calls"`
	// Missing are the parts that are not in force, with the reason, a line each; nil: all
	// are.
	Missing []string `json:"missing,omitempty"`
}

// Loopback is how clients on loopback addresses are served.
type Loopback struct {
	// By is what serves them.
	By LoopbackWay `json:"by"`
	// Reason is why it is not eBPF; empty: it is, or was not wanted.
	Reason string `json:"reason,omitempty"`
}

// LoopbackWay is what serves clients on loopback addresses.
type LoopbackWay string

// The ways.
const (
	LoopbackBPF   LoopbackWay = "bpf"   // eBPF, and proxies for sockets that it leaves out
	LoopbackProxy LoopbackWay = "proxy" // userland proxies
)

// MissingFeature is a feature that the kernel does not have.
type MissingFeature struct {
	// Name is the kernel's name for it.
	Name string `json:"feature"`
	// Fallback is what the daemon does without it, and what that costs.
	Fallback string `json:"instead"`
}

func (h *handler) getStatus(_ http.ResponseWriter, c *call) (any, error) {
	status, err := h.Status(c.ctx)
	if status.Warnings == nil {
		status.Warnings = []string{}
	}
	return status, err
}

func (h *handler) getProgress(http.ResponseWriter, *call) (any, error) {
	return h.Progress(), nil
}

func (h *handler) getMetrics(w http.ResponseWriter, c *call) (any, error) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.limits.writeTime))
	h.Metrics.ServeHTTP(w, c.Request)
	return nil, nil
}

func (h *handler) getHealth(w http.ResponseWriter, c *call) (any, error) {
	ctx, cancel := context.WithTimeout(c.Context(), h.limits.healthTime)
	defer cancel()
	if err := h.Health(ctx); err != nil {
		return nil, problem(http.StatusServiceUnavailable, problemOf(err).Code, "check health: "+err.Error())
	}
	h.send(w, http.StatusOK, "text/plain; charset=utf-8", bytes.NewBufferString("ok\n"))
	return nil, nil
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/lab"
)

// backend is what all mappings lead to. The namespaces of these measurements have
// no network: there is no route to it, which costs a look-up as any other.
func backend() netip.Addr { return netip.AddrFrom4([4]byte{172, 30, 0, 2}) }

// firstPort leaves room below the full table for the single changes.
const firstPort = 1000

func mappings(first, count int) []engine.Mapping {
	ms := make([]engine.Mapping, count)
	for i := range ms {
		port := uint16(first + i)
		ms[i] = engine.Mapping{
			Proto:    engine.TCP,
			Frontend: netip.AddrPortFrom(netip.Addr{}, port),
			Backend:  netip.AddrPortFrom(backend(), port),
		}
	}
	return ms
}

// inNamespace runs f in a fresh network namespace.
func inNamespace(f func(ns *lab.NS) error) (err error) {
	ns, err := lab.New("bench")
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := ns.Close(); err == nil {
			err = closeErr
		}
	}()
	return f(ns)
}

// timed adds how long f took to the report.
func timed(r *report, variant string, f func() error) error {
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		return fmt.Errorf("%s: %w", variant, err)
	}
	r.add(variant, took.Seconds())
	return nil
}

// withRaw opens a raw socket in the namespace.
func withRaw(ns *lab.NS, f func(*rawSocket) error) error {
	var s *rawSocket
	err := ns.Do(func() (err error) {
		s, err = newRawSocket()
		return err
	})
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}

// withEngine opens an engine in the namespace.
func withEngine(ns *lab.NS, f func(*engine.Engine) error) error {
	e, err := engine.Open(engine.Options{NetNS: ns.Path(), NoProxies: true})
	if err != nil {
		return err
	}
	err = f(e)
	if closeErr := e.Close(); err == nil {
		err = closeErr
	}
	return err
}

// command runs a program inside the namespace.
func command(ns *lab.NS, name string, args ...string) error {
	return ns.Do(func() error {
		cmd := exec.Command(name, args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
		}
		return nil
	})
}

// installed reports whether a peer is there, and notes it if it is not.
func installed(r *report, name string) bool {
	_, err := exec.LookPath(name)
	if err != nil {
		r.note("%s is not installed and left out", name)
	}
	return err == nil
}

// build makes the binary that whole-process figures are of.
func build(dir string) (string, error) {
	bin := filepath.Join(dir, "nftnat")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/nftnat/nftnat/cmd/nftnat")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nftnat: %w: %s", err, out)
	}
	return bin, nil
}

// benchApply fills an empty table.
func benchApply(b *book, s settings) error {
	r := b.report(fmt.Sprintf("%d mappings in one transaction", s.mappings), seconds)
	dir, err := os.MkdirTemp("", "nftnat-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin, err := build(dir)
	if err != nil {
		return err
	}
	yaml, script := filepath.Join(dir, "ports.yaml"), filepath.Join(dir, "ports.nft")
	if err := writeFiles(yaml, script, s.mappings); err != nil {
		return err
	}
	ms := mappings(firstPort, s.mappings)
	variants := []func(*lab.NS) error{
		func(ns *lab.NS) error {
			return withRaw(ns, func(raw *rawSocket) error {
				return timed(r, "raw netlink batch into a sized map (the limit)", func() error {
					return raw.commit(batch(slices.Concat(tableMessages(), elementMessages(firstPort, s.mappings))))
				})
			})
		},
		func(ns *lab.NS) error {
			return withEngine(ns, func(e *engine.Engine) error {
				return timed(r, "engine.Apply, in process", func() error {
					_, err := e.Apply(ms...)
					return err
				})
			})
		},
		func(ns *lab.NS) error {
			return timed(r, "nftnat apply -f, whole process", func() error {
				return command(ns, bin, "apply", "--direct", "--quiet", "-f", yaml)
			})
		},
		func(ns *lab.NS) error {
			if !installed(r, "nft") {
				return nil
			}
			return timed(r, "nft -f, whole process", func() error { return command(ns, "nft", "-f", script) })
		},
	}
	return rounds(s.rounds, variants)
}

func rounds(n int, variants []func(*lab.NS) error) error {
	for range n {
		for _, v := range variants {
			if err := inNamespace(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeFiles writes the same elements for nftnat and for nft: in nftnat's whole
// ruleset, so that both load the same.
func writeFiles(yaml, script string, count int) error {
	var y, n bytes.Buffer
	y.WriteString("mappings:\n")
	plan, err := engine.Plan("")
	if err != nil {
		return err
	}
	n.WriteString(plan)
	n.WriteString("add element inet nftnat tcp4 {\n")
	for _, m := range mappings(firstPort, count) {
		fmt.Fprintf(&y, "  - %s\n", m)
		fmt.Fprintf(&n, "%d : %s . %d,\n", m.Frontend.Port(), m.Backend.Addr(), m.Backend.Port())
	}
	n.WriteString("}\n")
	if err := os.WriteFile(yaml, y.Bytes(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(script, n.Bytes(), 0o600)
}

// benchPublish adds one mapping at a time.
func benchPublish(b *book, s settings) error {
	r := b.report("One mapping more", seconds)
	for _, full := range []bool{false, true} {
		into, fill := "into an empty table", 0
		if full {
			into, fill = fmt.Sprintf("into %d", s.mappings), s.mappings
		}
		variants := []func(*lab.NS) error{
			func(ns *lab.NS) error { return publishRaw(r, ns, into, fill, s.singles) },
			func(ns *lab.NS) error { return publishEngine(r, ns, into, fill, s.singles) },
			func(ns *lab.NS) error { return publishNft(r, ns, into, fill, min(s.singles, 20)) },
		}
		if err := rounds(s.rounds, variants); err != nil {
			return err
		}
	}
	return nil
}

func publishRaw(r *report, ns *lab.NS, into string, fill, singles int) error {
	return withRaw(ns, func(raw *rawSocket) error {
		b := tableMessages()
		b = append(b, elementMessages(firstPort-1, fill+1)...) // one at least, to be acknowledged
		if err := raw.commit(batch(b)); err != nil {
			return err
		}
		for port := 1; port <= singles; port++ {
			err := timed(r, "raw netlink commit "+into, func() error { return raw.commit(batch(elementMessages(port, 1))) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func publishEngine(r *report, ns *lab.NS, into string, fill, singles int) error {
	return withEngine(ns, func(e *engine.Engine) error {
		if _, err := e.Apply(mappings(firstPort-1, fill+1)...); err != nil {
			return err
		}
		for _, m := range mappings(1, singles) {
			err := timed(r, "engine.Publish "+into, func() error {
				_, err := e.Publish(m)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func publishNft(r *report, ns *lab.NS, into string, fill, singles int) error {
	if !installed(r, "nft") {
		return nil
	}
	err := withEngine(ns, func(e *engine.Engine) error {
		_, err := e.Apply(mappings(firstPort-1, fill+1)...)
		return err
	})
	if err != nil {
		return err
	}
	for port := 1; port <= singles; port++ {
		element := fmt.Sprintf("{ %d : 172.30.0.2 . %d }", port, port)
		err := timed(r, "nft add element, whole process, "+into, func() error {
			return command(ns, "nft", "add", "element", "inet", "nftnat", "tcp4", element)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// benchRead reads a full table back.
func benchRead(b *book, s settings) error {
	r := b.report(fmt.Sprintf("Reading %d mappings back", s.mappings), seconds)
	fill := func(ns *lab.NS, f func() error) error {
		err := withEngine(ns, func(e *engine.Engine) error {
			_, err := e.Apply(mappings(firstPort, s.mappings)...)
			return err
		})
		if err != nil {
			return err
		}
		return f()
	}
	variants := []func(*lab.NS) error{
		func(ns *lab.NS) error {
			return fill(ns, func() error {
				return withRaw(ns, func(raw *rawSocket) error {
					return timed(r, "raw netlink dump into a Go map (the limit)", func() error {
						n, err := raw.dump("nftnat", "tcp4")
						if err == nil && n != s.mappings {
							err = fmt.Errorf("%d elements of %d", n, s.mappings)
						}
						return err
					})
				})
			})
		},
		func(ns *lab.NS) error {
			return fill(ns, func() error {
				return timed(r, "engine.Open (adopt)", func() error {
					return withEngine(ns, func(*engine.Engine) error { return nil })
				})
			})
		},
		func(ns *lab.NS) error {
			if !installed(r, "nft") {
				return nil
			}
			return fill(ns, func() error {
				return timed(r, "nft -j list map, whole process", func() error {
					return command(ns, "nft", "-j", "list", "map", "inet", "nftnat", "tcp4")
				})
			})
		},
	}
	return rounds(s.rounds, variants)
}

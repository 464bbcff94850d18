// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// reading is what an Explainer reads a network namespace by.
type reading struct {
	ns     *os.File // nil: that of the process
	reader *rules.Reader
	host   *host.Host
	rules  *ruleset
	lists  []*os.File // of legacy tables
}

// OpenLegacyLists opens what tells which tables of iptables-legacy exist in the calling thread's network namespace:
// net/ip_tables_names of proc(5) and those like it, which only root may read. A process that drops its privileges opens
// them before, and gives them as Options.LegacyLists. Close them. Those that may not be read are left out.
func OpenLegacyLists() []*os.File { return xt.OpenLegacyLists() }

// open opens the network namespace.
func (e *Explainer) open() error {
	r := &reading{lists: e.options.LegacyLists}
	fd := 0
	if e.options.NetNS != "" {
		f, err := os.Open(e.options.NetNS)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		r.ns, fd = f, int(f.Fd())
	}
	var err error
	if r.reader, err = rules.Open(fd); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return errors.Join(err, r.close())
	}
	e.read = func(ctx context.Context) (facts, evaluator, error) { return r.read(ctx, fd) }
	e.end = r.close
	return nil
}

func (r *reading) close() error {
	var errs []error
	if r.rules != nil {
		errs = append(errs, r.rules.close())
	}
	if r.host != nil {
		errs = append(errs, r.host.Close())
	}
	if r.reader != nil {
		errs = append(errs, r.reader.Close())
	}
	if r.ns != nil {
		errs = append(errs, r.ns.Close())
	}
	return errors.Join(errs...)
}

// read reads the host anew, and the rules if they have changed.
func (r *reading) read(ctx context.Context, fd int) (facts, evaluator, error) {
	if r.host != nil {
		if err := r.host.Close(); err != nil {
			return nil, nil, err
		}
		r.host = nil
	}
	h, err := host.Open(fd)
	if err != nil {
		return nil, nil, err
	}
	r.host = h
	f := hostFacts{h, new([]string)}
	if xt.LegacyBridge() {
		*f.more = append(*f.more, "tables of ebtables-legacy, if there are any")
	}
	err = r.readRules(ctx, fd, f)
	return f, r.rules, err
}

// readRules reads the rules, if they have changed.
func (r *reading) readRules(ctx context.Context, fd int, f hostFacts) error {
	// Tables of iptables-legacy have no generation, and are few.
	legacy, legacyErr := xt.LegacyTables(fd, r.lists...)
	if r.rules != nil && r.reader != nil {
		if changed, err := r.reader.Changed(); err == nil && !changed {
			return r.rules.renew(f, legacy, legacyErr)
		}
	}
	all := &rules.Ruleset{}
	var err error
	if r.reader != nil {
		if all, err = r.reader.Read(ctx); err != nil {
			return err
		}
	}
	if r.rules != nil {
		err = r.rules.close()
	}
	r.rules = &ruleset{Reader: r.reader, nft: all, netNS: fd}
	return errors.Join(err, r.rules.renew(f, legacy, legacyErr))
}

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/cni"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// envCNI says what a runtime wants of a plugin.
const envCNI = "CNI_COMMAND"

// isPlugin reports whether the program was started as a CNI plugin: by its name, or as "nftnat cni" by
// a runtime.
func isPlugin(words []string) bool {
	called := os.Getenv(envCNI) != ""
	switch filepath.Base(words[0]) {
	case "portmap":
		return true
	case cni.Type:
		return called || len(words) == 1
	}
	return called && len(words) == 2 && words[1] == "cni"
}

// newPlugin makes the plugin, without the commands: a runtime waits for it at each start of a container.
func newPlugin() *cni.Plugin {
	g := func(socket, table string) *global {
		return &global{
			socket: cmp.Or(socket, os.Getenv(envSocket)), table: cmp.Or(table, engine.DefaultTable), tableGiven: table != "",
			quiet: true, stderr: os.Stderr,
		}
	}
	return &cni.Plugin{
		Version: buildinfo.Version,
		Daemon: func(ctx context.Context, socket, table string, start bool) (*api.Client, string, error) {
			g := g(socket, table)
			client, path, err := g.locateLiving(ctx)
			if start && errors.Is(err, api.ErrNoServer) {
				client, err = g.start(ctx, path)
			}
			if err == nil {
				path = client.Path()
			}
			return client, path, err
		},
		Kernel: func(ctx context.Context, table string) (ms []nat.Mapping, present bool, err error) {
			err = g("", table).withEngine(ctx, true, nil, func(e *engine.Engine) error {
				st, _ := e.Status(ctx) // it has this, whatever else it could not read
				present = st.Present
				ms, err = e.Mappings(ctx)
				return err
			})
			return ms, present, err
		},
		Direct: func(ctx context.Context, table string, f func(cni.Publisher) error) error {
			return g("", table).withEngine(ctx, false, nil, func(e *engine.Engine) error { return f(e) })
		},
		NameHolder: func(held *nat.HeldError) { _ = engine.NameHolder("", held) }, // the text then says what is known
	}
}

// defaultConflists is where runtimes read lists of plugins.
const defaultConflists = "/etc/cni/net.d"

// pluginDirs are where runtimes look for plugins: upstream, Debian, and Fedora.
func pluginDirs() []string { return []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"} }

func newCNI(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "Publish the ports of containers in place of the CNI plugin portmap",
		Long: "With CNI_COMMAND in its environment, as runtimes set it, this is a CNI plugin. So is\n" +
			"the program under the name nftnat-cni or portmap.",
		Example: "  nftnat cni install --conflist /etc/cni/net.d/10-containerd-net.conflist",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCNIInstall(g), newCNIUninstall(g))
	return cmd
}

// cniFiles are the files that install and uninstall are about.
type cniFiles struct {
	conflist string
	binDir   string
}

func (f *cniFiles) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.conflist, "conflist", "", "edit this `FILE` (default the first *.conflist in "+defaultConflists+")")
	cmd.Flags().StringVar(&f.binDir, "bin-dir", "", "the runtime's `DIR` of plugins (default those of "+strings.Join(pluginDirs(), ", ")+" that exist)")
}

// complete finds the files that were not given.
func (f *cniFiles) complete(cmd *cobra.Command) error {
	if err := refuseEmpty(cmd.Flags(), "conflist", "bin-dir"); err != nil {
		return err
	}
	if f.conflist != "" {
		return nil
	}
	lists, err := filepath.Glob(filepath.Join(defaultConflists, "*.conflist"))
	if err == nil && len(lists) == 0 {
		err = &fs.PathError{Op: "find a list of plugins", Path: defaultConflists, Err: fs.ErrNotExist}
	}
	if err != nil {
		return err
	}
	f.conflist = slices.Min(lists)
	return nil
}

// dirs are the directories of plugins.
func (f *cniFiles) dirs() []string {
	if f.binDir != "" {
		return []string{f.binDir}
	}
	return slices.DeleteFunc(pluginDirs(), func(dir string) bool {
		info, err := os.Stat(dir)
		return err != nil || !info.IsDir()
	})
}

func newCNIInstall(g *global) *cobra.Command {
	var (
		files cniFiles
		hold  string
	)
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put nftnat-cni into a list of CNI plugins, in place of portmap if it is there",
		Long: "Link the program as nftnat-cni into the runtime's directory of plugins, and put it into\n" +
			"a list of plugins, in place of portmap if that is there. The file is replaced in one\n" +
			"step; whatever else it says stays as it is. The same command again changes nothing.",
		Example: "  nftnat cni install\n  nftnat cni install --conflist /etc/cni/net.d/nerdctl-bridge.conflist --bin-dir /opt/cni/bin",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if hold != "own" && hold != "shared" && hold != "auto" {
				return usageError{fmt.Errorf("--hold %s: own, shared or auto", printable.Text(hold))}
			}
			if err := files.complete(cmd); err != nil {
				return err
			}
			var keys []cni.Key
			for _, key := range []cni.Key{{Name: "hold", Value: hold}, {Name: "socket", Value: g.socket}} {
				if !cmd.Flags().Changed(key.Name) {
					continue
				}
				text, err := json.Marshal(key.Value)
				if err != nil {
					return err
				}
				keys = append(keys, cni.Key{Name: key.Name, Value: string(text)})
			}
			return files.install(cmd, keys)
		},
	}
	files.flags(cmd)
	cmd.Flags().StringVar(&hold, "hold", "auto", "hold the ports against other programs: `WHO` is own, shared, or auto")
	return offer(cmd, "socket ")
}

// install links the program first: the runtime may read the list at any time.
func (f *cniFiles) install(cmd *cobra.Command, keys []cni.Key) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	dirs := f.dirs()
	if len(dirs) == 0 {
		return usageError{errors.New("there is no directory of plugins: name the runtime's with --bin-dir")}
	}
	for _, dir := range dirs {
		changed, err := cni.Link(dir, program)
		if err != nil {
			return err
		}
		if changed {
			fmt.Fprintf(cmd.OutOrStdout(), "%s leads to %s\n", filepath.Join(dir, cni.Type), program)
		}
	}
	return f.edit(cmd, "has "+cni.Type, func(text []byte) ([]byte, error) { return cni.Install(text, keys...) })
}

// edit edits the list, and says what it then has.
func (f *cniFiles) edit(cmd *cobra.Command, has string, change func([]byte) ([]byte, error)) error {
	changed, err := cni.EditFile(f.conflist, change)
	if changed {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", f.conflist, has)
	}
	return err
}

func newCNIUninstall(*global) *cobra.Command {
	var files cniFiles
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take nftnat-cni out of a list of CNI plugins, and put portmap back if it was there",
		Long: "Take nftnat-cni out of a list of plugins, and put portmap back if it was there. Ports of\n" +
			"containers that run stay published, and the runtime does not unpublish them any more:\n" +
			"stop the containers before.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := files.complete(cmd); err != nil {
				return err
			}
			if err := files.edit(cmd, "does not have "+cni.Type, cni.Uninstall); err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			if files.isUsed() {
				return nil
			}
			for _, dir := range files.dirs() {
				changed, err := cni.Unlink(dir, program)
				if err != nil {
					return err
				}
				if changed {
					fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", filepath.Join(dir, cni.Type))
				}
			}
			return nil
		},
	}
	files.flags(cmd)
	return offer(cmd, "")
}

// isUsed reports whether another list beside this one has the plugin.
func (f *cniFiles) isUsed() bool {
	lists, _ := filepath.Glob(filepath.Join(filepath.Dir(f.conflist), "*.conf*")) // the pattern is right
	return slices.ContainsFunc(lists, func(path string) bool {
		text, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(text), strconv.Quote(cni.Type))
	})
}

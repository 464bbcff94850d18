// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// units are those that packages for systemd install, with their user and directory.
var systemdFiles = []string{
	"/usr/lib/systemd/system/nftnat-docker.service",
	"/usr/lib/systemd/system/nftnat-gateway.service",
	"/usr/lib/systemd/system/nftnat-gateway.socket",
	"/usr/lib/systemd/system/nftnat-web.service",
	"/usr/lib/systemd/system/nftnat.service",
	"/usr/lib/systemd/system/nftnat.socket",
	"/usr/lib/sysusers.d/nftnat.conf",
	"/usr/lib/tmpfiles.d/nftnat.conf",
}

// commonFiles are the files of all packages, without the manual pages of commands.
var commonFiles = []string{
	"/usr/bin/nftnat",
	"/usr/share/bash-completion/completions/nftnat",
	"/usr/share/doc/nftnat/changelog.gz",
	"/usr/share/doc/nftnat/copyright",
	"/usr/share/fish/vendor_completions.d/nftnat.fish",
	"/usr/share/man/man8/nftnat.8.gz",
	"/usr/share/zsh/site-functions/_nftnat",
}

var openrcFiles = []string{"/etc/init.d/nftnat"}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "s390x": elf.EM_S390, "riscv64": elf.EM_RISCV}

// Packages have the program of their architecture, all files that belong to it, one version
// and one date.
func TestPackages(t *testing.T) {
	arches := []string{runtime.GOARCH, otherArch()}
	r := packagesOf(t, thisVersion)
	for _, arch := range arches {
		for name, p := range map[string]pack{"deb": readDeb(t, r.deb(arch)), "rpm": readRPM(t, r.rpm(arch)), "apk": readAPK(t, r.apk(arch))} {
			t.Run(name+" "+arch, func(t *testing.T) {
				require.Equal(t, thisVersion, p.version)
				others := slices.Concat(systemdFiles, []string{pluginLink(name)})
				if name == "apk" {
					others = slices.Concat(openrcFiles, []string{pluginLink(name)})
				}
				checkFiles(t, p.files, slices.Concat(commonFiles, others))
				checkProgram(t, p.files["/usr/bin/nftnat"].content, arch)
				require.Equal(t, name != "apk", strings.Contains(p.scripts, "systemctl reload nftnat.service"))
				require.Contains(t, p.scripts, "nftnat purge")
			})
		}
	}
	sums := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	sums.Dir = r.dir
	out, err := sums.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 3*len(arches), bytes.Count(out, []byte(": OK\n")), "%s", out)
}

// The same sources make the same packages in another directory, later, and with another
// umask.
func TestPackagesReproducible(t *testing.T) {
	first := packagesOf(t, thisVersion)
	dir := filepath.Join(t.TempDir(), "elsewhere")
	copyCheckout(t, dir)
	script := exec.Command("sh", "-c", "umask 077 && find . -exec touch {} + && make packages PACKAGES_ARCH="+runtime.GOARCH)
	script.Dir = dir
	script.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+sourceDate, "GOPROXY=off", "TZ=Asia/Tokyo", "LC_ALL=C")
	out, err := script.CombinedOutput()
	require.NoError(t, err, "%s", out)
	sums := textOf(t, filepath.Join(dir, "dist/packages/SHA256SUMS"))
	require.Equal(t, 3, strings.Count(sums, "\n"))
	require.Subset(t, strings.Split(textOf(t, filepath.Join(first.dir, "SHA256SUMS")), "\n"), strings.Split(sums, "\n"))
}

// pluginLink is the CNI plugin, where runtimes of the distribution look for it: a link to the program.
func pluginLink(format string) string {
	if format == "deb" {
		return "/usr/lib/cni/nftnat-cni"
	}
	return "/usr/libexec/cni/nftnat-cni"
}

// pack is the content of a package.
type pack struct {
	version string
	files   map[string]packed // without directories
	scripts string            // one after another
}

type packed struct {
	mode    fs.FileMode
	owner   string
	time    int64
	content []byte
}

func checkFiles(t *testing.T, files map[string]packed, want []string) {
	t.Helper()
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(name string) bool {
		return strings.HasPrefix(name, "/usr/share/man/man8/nftnat-")
	})
	slices.Sort(want)
	require.Equal(t, want, names)
	require.Contains(t, files, "/usr/share/man/man8/nftnat-add.8.gz")
	for name, f := range files {
		mode := fs.FileMode(0o644)
		if name == "/usr/bin/nftnat" || strings.HasPrefix(name, "/etc/init.d/") {
			mode = 0o755
		}
		if filepath.Base(name) == "nftnat-cni" {
			mode = 0 // a link: what unpacks it takes no notice
		}
		require.Equal(t, mode, f.mode.Perm(), name)
		if mode != 0 || f.owner != "" { // an apk names none for a link: its number is that of root
			require.Equal(t, "root", f.owner, name)
		}
		require.Equal(t, sourceDate, strconv.FormatInt(f.time, 10), name)
	}
}

// checkProgram checks that a program is static, and its architecture and version.
func checkProgram(t *testing.T, content []byte, arch string) {
	t.Helper()
	program, err := elf.NewFile(bytes.NewReader(content))
	require.NoError(t, err)
	require.Equal(t, machines[arch], program.Machine)
	libraries, err := program.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries)
	if arch != runtime.GOARCH {
		return
	}
	path := filepath.Join(t.TempDir(), "nftnat")
	require.NoError(t, os.WriteFile(path, content, 0o755))
	out, err := exec.Command(path, "version").Output()
	require.NoError(t, err)
	require.Regexp(t, `^nftnat `+thisVersion+` `, string(out))
}

func readDeb(t *testing.T, path string) pack {
	t.Helper()
	deb := labtest.Tool(t, "dpkg-deb")
	output := func(args ...string) []byte {
		out, err := exec.Command(deb, append(args, path)...).Output()
		require.NoError(t, err, args)
		return out
	}
	p := pack{version: strings.TrimSpace(string(output("--showformat=${Version}", "--show")))}
	p.files = readTar(t, bytes.NewReader(output("--fsys-tarfile")))
	for _, f := range readTar(t, bytes.NewReader(output("--ctrl-tarfile"))) {
		p.scripts += string(f.content)
	}
	return p
}

func readAPK(t *testing.T, path string) pack {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	// Two archives one after another, of which the first has no end.
	z, err := gzip.NewReader(file)
	require.NoError(t, err)
	p := pack{files: readTar(t, z)}
	for name, f := range p.files {
		if !strings.HasPrefix(name, "/.") {
			continue
		}
		p.scripts += string(f.content)
		delete(p.files, name)
		if name == "/.PKGINFO" {
			for line := range strings.Lines(string(f.content)) {
				key, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
				require.True(t, found, "%q", line)
				if key == "pkgver" {
					p.version = value
				}
			}
		}
	}
	return p
}

// readTar reads the files of an archive, by their paths in the file system.
func readTar(t *testing.T, r io.Reader) map[string]packed {
	t.Helper()
	files := map[string]packed{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		if header.Typeflag == tar.TypeDir {
			continue
		}
		content, err := io.ReadAll(archive)
		require.NoError(t, err)
		files["/"+strings.TrimPrefix(header.Name, "./")] = packed{
			mode: header.FileInfo().Mode(), owner: header.Uname, time: header.ModTime.Unix(), content: content,
		}
	}
}

func readRPM(t *testing.T, path string) pack {
	t.Helper()
	rpm := labtest.Tool(t, "rpm")
	query := func(args ...string) string {
		cmd := exec.Command(rpm, append([]string{"--query", "--package", path, "--dbpath", t.TempDir()}, args...)...)
		out, err := cmd.Output()
		require.NoError(t, err, args)
		return string(out)
	}
	p := pack{version: query("--queryformat", "%{VERSION}"), files: map[string]packed{}, scripts: query("--scripts")}
	for line := range strings.Lines(query("--queryformat", "[%{FILENAMES}\t%{FILEMODES:octal}\t%{FILEUSERNAME}\t%{FILEMTIMES}\n]")) {
		var mode uint32
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		require.Len(t, fields, 4)
		_, err := fmt.Sscanf(fields[1], "%o", &mode)
		require.NoError(t, err)
		if mode&0o170000 == 0o040000 {
			// A package that owns a shared directory removes it with its last file.
			require.Contains(t, fields[0], "nftnat")
			continue
		}
		seconds, err := strconv.ParseInt(fields[3], 10, 64)
		require.NoError(t, err)
		p.files[fields[0]] = packed{mode: fs.FileMode(mode & 0o7777), owner: fields[2], time: seconds}
	}
	unpacked := exec.Command(labtest.Tool(t, "rpm2archive"), "--nocompression", "-")
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	unpacked.Stdin = file
	archive, err := unpacked.Output()
	require.NoError(t, err)
	for name, f := range readTar(t, bytes.NewReader(archive)) {
		known := p.files[name]
		known.content = f.content
		p.files[name] = known
	}
	return p
}

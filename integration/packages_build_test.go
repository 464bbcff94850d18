// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A release is a directory of packages.
type release struct{ dir, version string }

// The versions that tests install: this one, and the same with the next number.
const (
	thisVersion = buildinfo.Version
	nextVersion = "99.0.0"
)

// sourceDate is the date of the sources from which tests build packages.
const sourceDate = "1700000000"

// built are the releases that have been built for the tests of this run.
var built = map[string]release{}

// packagesOf builds a release once for all tests: this version for this machine's and another
// architecture, other versions for this machine only.
func packagesOf(t *testing.T, version string) release {
	t.Helper()
	if r, found := built[version]; found {
		return r
	}
	requireNFPM(t)
	arches := []string{runtime.GOARCH}
	if version == thisVersion {
		arches = append(arches, otherArch())
	}
	dir := filepath.Join(labtest.Scratch(), "release-"+version)
	copyCheckout(t, dir)
	setVersion(t, dir, version)
	makeIn(t, dir, "packages", "PACKAGES_ARCH="+strings.Join(arches, " "))
	built[version] = release{dir: filepath.Join(dir, "dist/packages"), version: version}
	return built[version]
}

// requireNFPM skips the test if long tests are left out, or if nfpm has not been downloaded:
// tests have no network.
func requireNFPM(t *testing.T) {
	t.Helper()
	labtest.LongOnly(t, "building packages")
	labtest.Require(t)
	cmd := exec.Command(labtest.Tool(t, "go"), "list", "-modfile=packaging/tools.mod", "-deps", "github.com/goreleaser/nfpm/v2/cmd/nfpm")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		labtest.Skip(t, `the packages are built by nfpm, which "make packages" downloads first`)
	}
}

// makeIn runs make in a checkout.
func makeIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(labtest.Tool(t, "make"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+sourceDate, "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// copyCheckout copies the files that git tracks, or would add, to a new directory.
func copyCheckout(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o755))
	unpack := exec.Command(labtest.Tool(t, "tar"), "--extract", "--directory", dir)
	unpack.Stdin = bytes.NewReader(packCheckout(t))
	out, err := unpack.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// setVersion changes the version of a checkout.
func setVersion(t *testing.T, dir, version string) {
	t.Helper()
	path := filepath.Join(dir, "internal/buildinfo/buildinfo.go")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	const line = `const Version = "`
	require.Equal(t, 1, bytes.Count(text, []byte(line+thisVersion+`"`)))
	text = bytes.ReplaceAll(text, []byte(line+thisVersion), []byte(line+version))
	require.NoError(t, os.WriteFile(path, text, 0o644))
}

// architectures are those of packages, by Go's names.
var architectures = map[string]struct{ deb, rpm, apk string }{
	"amd64":   {"amd64", "x86_64", "x86_64"},
	"arm64":   {"arm64", "aarch64", "aarch64"},
	"arm":     {"armhf", "armv7hl", "armv7"},
	"riscv64": {"riscv64", "riscv64", "riscv64"},
	"mips":    {"mips", "mips", ""},
	"s390x":   {"s390x", "s390x", "s390x"},
}

func (r release) deb(arch string) string {
	return filepath.Join(r.dir, "nftnat_"+r.version+"_"+architectures[arch].deb+".deb")
}

func (r release) rpm(arch string) string {
	return filepath.Join(r.dir, "nftnat-"+r.version+"-1."+architectures[arch].rpm+".rpm")
}

func (r release) apk(arch string) string {
	return filepath.Join(r.dir, "nftnat_"+r.version+"_"+architectures[arch].apk+".apk")
}

// otherArch is an architecture that this machine does not have.
func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

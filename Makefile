# Everything a contributor runs. Integration tests make namespaces of their own and
# need root, or a kernel that lets users make them.

GO      ?= go
ARCHES  := amd64 arm64 arm riscv64 mips s390x
VERSION := $(shell sed -n 's/^const Version = "\(.*\)"$$/\1/p' internal/buildinfo/buildinfo.go)

# The date of what is built is that of the sources: the same sources make the same bytes.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),$(shell stat -c %Y CHANGELOG.md))
SOURCE_DATE_EPOCH := $(SOURCE_DATE_EPOCH)
export SOURCE_DATE_EPOCH

# The static program. All that build it use the same flags, and so the same cache. Of the tags,
# one leaves HTTP/2 out of net/http, which is only spoken with TLS there, and one the assembly of
# crypto, of which only the hashes of names are used: 0.5 and 0.2 MB that no request reaches.
COMPILE = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -tags nethttpomithttp2,purego $(SMALL:%=-gcflags=%=-l)

# Functions of these are not inlined, which leaves out 0.9 MB: what runs once for each command, and
# libraries that no hot path calls. The engine, nft, the proxies and the API keep theirs.
SMALL = compress/... crypto/... debug/... encoding/asn1 fmt internal/zstd log/... math/big mime/... \
	net net/http/... net/textproto net/url regexp/... text/... vendor/... golang.org/x/net/... \
	$(addprefix github.com/,cilium/... containernetworking/... coreos/... goccy/... google/... mdlayher/... spf13/... vishvananda/...) \
	$(addprefix github.com/nftnat/nftnat/,cmd/... cni explain/... internal/confine internal/daemon internal/handover internal/lab/... internal/rules/... \
	docker gateway/... migrate/... state/... trace/... bpf/... web $(addprefix engine/internal/,answers hairpin hooks ipam portholder rivals table))

.DEFAULT_GOAL := build
.PHONY: fleet fleet-test build install uninstall packages version help check test race cover integration others fuzz soak lint openapi-client browser big-endian cross kernels nft-versions bench bench-once bench-compare tidy

build: program documents ## the static program, its manual pages and completions

.PHONY: program documents
program:
	$(COMPILE) -o $(PROGRAM) ./cmd/nftnat

documents:
	rm -rf dist/man dist/completions
	$(GO) run -tags man ./cmd/nftnat dist

# Where things are installed. systemd looks in /usr and /usr/local; for another PREFIX
# see docs/install.md. DESTDIR is put before each path, for packaging.
PREFIX      ?= /usr/local
BINDIR      ?= $(PREFIX)/bin
LIBDIR      ?= $(PREFIX)/lib
DATADIR     ?= $(PREFIX)/share
UNITDIR     ?= $(LIBDIR)/systemd/system
SYSUSERSDIR ?= $(LIBDIR)/sysusers.d
TMPFILESDIR ?= $(LIBDIR)/tmpfiles.d
MANDIR      ?= $(DATADIR)/man
BASHDIR     ?= $(DATADIR)/bash-completion/completions
ZSHDIR      ?= $(DATADIR)/zsh/site-functions
FISHDIR     ?= $(DATADIR)/fish/vendor_completions.d
DOCDIR      ?= $(DATADIR)/doc/nftnat

PROGRAM := nftnat
UNITS   := $(notdir $(wildcard packaging/systemd/*.service packaging/systemd/*.socket))

# It needs no Go, which root may not have in its PATH.
install: ## install what build made: DESTDIR= PREFIX=/usr/local
	@test -x $(PROGRAM) -a -d dist/man || { echo 'run "make" first, as the user who has Go' >&2; exit 1; }
	install -D -m 0755 $(PROGRAM) $(DESTDIR)$(BINDIR)/nftnat
	install -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do \
		sed 's|/usr/bin/nftnat|$(BINDIR)/nftnat|' packaging/systemd/$$unit >$(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
		chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	done
	install -D -m 0644 packaging/systemd/nftnat.sysusers.conf $(DESTDIR)$(SYSUSERSDIR)/nftnat.conf
	install -D -m 0644 packaging/systemd/nftnat.tmpfiles.conf $(DESTDIR)$(TMPFILESDIR)/nftnat.conf
	install -d $(DESTDIR)$(MANDIR)/man8
	for page in dist/man/*.8; do \
		gzip -9nc $$page >$(DESTDIR)$(MANDIR)/man8/$${page##*/}.gz || exit 1; \
		chmod 0644 $(DESTDIR)$(MANDIR)/man8/$${page##*/}.gz || exit 1; \
	done
	install -D -m 0644 dist/completions/nftnat.bash $(DESTDIR)$(BASHDIR)/nftnat
	install -D -m 0644 dist/completions/_nftnat $(DESTDIR)$(ZSHDIR)/_nftnat
	install -D -m 0644 dist/completions/nftnat.fish $(DESTDIR)$(FISHDIR)/nftnat.fish
	install -D -m 0644 packaging/copyright $(DESTDIR)$(DOCDIR)/copyright
	gzip -9nc CHANGELOG.md >$(DESTDIR)$(DOCDIR)/changelog.gz
	chmod 0644 $(DESTDIR)$(DOCDIR)/changelog.gz

uninstall: ## remove what install installed, with the same DESTDIR= and PREFIX=
	rm -f $(DESTDIR)$(BINDIR)/nftnat $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS))
	rm -f $(DESTDIR)$(SYSUSERSDIR)/nftnat.conf $(DESTDIR)$(TMPFILESDIR)/nftnat.conf
	rm -f $(DESTDIR)$(MANDIR)/man8/nftnat.8.gz $(DESTDIR)$(MANDIR)/man8/nftnat-*.8.gz
	rm -f $(DESTDIR)$(BASHDIR)/nftnat $(DESTDIR)$(ZSHDIR)/_nftnat $(DESTDIR)$(FISHDIR)/nftnat.fish
	rm -f $(DESTDIR)$(DOCDIR)/copyright $(DESTDIR)$(DOCDIR)/changelog.gz
	if test -d $(DESTDIR)$(DOCDIR); then rmdir --ignore-fail-on-non-empty $(DESTDIR)$(DOCDIR); fi

# The program nfpm and its dependencies are no part of go.mod.
NFPM          := $(GO) tool -modfile=packaging/tools.mod nfpm
PACKAGES_DIR  ?= dist/packages
PACKAGES_ARCH ?= $(ARCHES)
# By the names that nfpm has for them; Alpine has no mips.
nfpm-arch     = $(if $(filter arm,$(1)),arm7,$(1))
formats       = deb rpm $(if $(filter mips,$(1)),,apk)

packages: documents ## deb, rpm and apk with their checksums: PACKAGES_ARCH="amd64 arm64"
	rm -rf $(PACKAGES_DIR) dist/root
	mkdir -p $(PACKAGES_DIR) dist/root
	cp -R packaging/apk dist/root/apk
	$(foreach arch,$(PACKAGES_ARCH),$(call package-arch,$(arch)))
	cd $(PACKAGES_DIR) && sha256sum -- *.deb *.rpm *.apk >SHA256SUMS

define package-arch
GOARCH=$(1) GOARM=7 $(COMPILE) -o dist/root/$(1).program ./cmd/nftnat
$(MAKE) -s install PROGRAM=dist/root/$(1).program DESTDIR=dist/root/$(1) PREFIX=/usr
find dist/root/$(1) dist/root/apk -exec touch -d @$(SOURCE_DATE_EPOCH) {} +
for format in $(call formats,$(1)); do \
	DESCRIPTION="$$(head -n $$(test $$format = apk && echo 1 || echo 10) packaging/description)" \
		VERSION=$(VERSION) PACKAGE_ARCH=$(call nfpm-arch,$(1)) ROOT=dist/root/$(1) \
		$(NFPM) package -f packaging/nfpm.yaml -p $$format -t $(PACKAGES_DIR)/ || exit 1; \
done

endef

version: ## print the version of these sources
	@echo $(VERSION)

help: ## print this
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

check: lint cross test integration ## what .ci/run does, without installing its tools

test: ## all tests, the long ones shortened; lists what was left out: TEST=./nat
	$(GO) run ./internal/testrun $(if $(WHOLE),-whole $(WHOLE)) $(filter-out ./...,$(TEST))

race: ## the tests of some packages with the race detector: TEST='./engine/... ./nft'
	$(GO) test -race -count=1 $(TEST)

cover: ## how much of each function the tests of some packages reach: TEST=./nat
	mkdir -p dist
	$(GO) test -count=1 -coverprofile dist/cover.out $(TEST)
	$(GO) tool cover -func dist/cover.out

TEST ?= ./...

# The tests whole: none shortened, none skipped.
TESTS := NFTNAT_TEST_LONG=1 NFTNAT_TEST_NETNS=require $(GO) test -shuffle=on -count=1 -parallel 4 -timeout 18m

# ./integration, the longest, runs before the rest: the tests of two packages at a time
# would make each of them twice as long, and so closer to the limit. It runs without the race
# detector, with which it takes 15 minutes: RACE=-race.
integration: ## all tests whole, but for ./integration with the race detector; none may be skipped
	$(TESTS) $(RACE) ./integration
	$(MAKE) others

others: ## the part of "make integration" that is not ./integration
	$(TESTS) -race $$($(GO) list ./... | grep -v '/integration$$')

FUZZTIME ?= 60s
SOAK     ?= 1h
FUZZ     ?= ./...

fuzz: ## every fuzz target of every package, one after another: FUZZTIME=10s FUZZ=./nft
	GO="$(GO)" .ci/fuzz $(FUZZTIME) $(FUZZ)

soak: ## random changes, flushes, kills and takeovers for that long: SOAK=24h
	NFTNAT_TEST_LONG=1 NFTNAT_TEST_NETNS=require NFTNAT_SOAK=$(SOAK) $(GO) test -count=1 -timeout 0 -v -run 'TestSoak$$' ./integration

# Where the hot paths have benchmarks beside their code.
BENCHED := ./alloc ./conntrack ./engine ./nft ./proxy

# A module of its own: go test ./... does not know it.
bench: ## nftnat against other programs, as root: BENCH='-rounds 3 apply publish'
	cd bench && $(GO) run . $(BENCH)

bench-once: ## each Go benchmark of the hot paths once: that they run, not how fast
	BENCH_SECONDS=0.02 $(GO) test -run '^$$' -bench . -benchtime 1x $(BENCHED)
	cd bench && $(GO) test ./...

BASE  ?=
COUNT ?= 6

bench-compare: ## the hot paths here and at the previous tag, by benchstat: BASE=COMMIT COUNT=10
	GO="$(GO)" .ci/bench-compare $(COUNT) $(BASE)

lint: ## format, vet, and the linters, which hold the architecture
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	$(GO) vet -tags man ./cmd/nftnat
	golangci-lint run ./...
	cd bench && $(GO) vet ./... && golangci-lint run ./...
	cd integration/portclients && $(GO) vet ./... && golangci-lint run ./...
	cd fleet && $(GO) vet ./... && golangci-lint run ./...

tidy: ## go.mod and go.sum of all modules
	for module in . bench fleet integration/portclients; do (cd $$module && $(GO) mod tidy) || exit 1; done
	cd integration/openapi && $(GO) generate ./... && $(GO) mod tidy # the generated client has imports

cross: ## builds without cgo for all architectures that are promised, with their sizes, and what clients import for darwin
	mkdir -p dist
	for arch in $(ARCHES); do GOOS=linux GOARCH=$$arch $(COMPILE) -o dist/cross ./cmd/nftnat && echo "$$arch $$(wc -c <dist/cross)" || exit 1; done
	for arch in $(ARCHES); do (cd fleet && GOOS=linux GOARCH=$$arch CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../dist/cross ./cmd/nftnat-fleet) && echo "fleet $$arch $$(wc -c <dist/cross)" || exit 1; done
	rm dist/cross
	GOOS=darwin CGO_ENABLED=0 $(GO) build ./nat ./api

# A module of its own, which alone knows etcd: see docs/fleet.md.
fleet: ## the static program nftnat-fleet, for this architecture or GOARCH
	cd fleet && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../nftnat-fleet ./cmd/nftnat-fleet

# Real etcd and real daemons in namespaces.
fleet-test: ## all tests of the module fleet, whole; none may be skipped
	cd fleet && NFTNAT_TEST_NETNS=require $(GO) test -count=1 -timeout 10m ./...

# A module of its own: go test ./... does not know it.
openapi-client: ## a client generated from docs/openapi.yaml does its work with the daemon
	cd integration/openapi && $(GO) generate ./... && $(GO) mod tidy -diff && $(GO) vet ./... && NFTNAT_TEST_NETNS=require $(GO) test -count=1 ./...

# A module of its own as well. npm fetches the rules of accessibility.
browser: ## the page of nftnat web in Chromium, without a window: NFTNAT_SCREENSHOTS=DIR keeps pictures
	cd integration/browser && npm ci --silent --no-audit --no-fund && $(GO) mod tidy -diff && $(GO) vet ./... && NFTNAT_TEST_NETNS=require $(GO) test -count=1 ./...

big-endian: ## the codecs and allocators on s390x, by emulation
	GOARCH=s390x CGO_ENABLED=0 $(GO) test -exec qemu-s390x-static ./nft ./alloc ./bpf/...

# Not ./proxy: it knows of sockets alone, and half of its tests are about load, with
# which an emulated processor is not fast enough. Those of ./integration use proxies.
KERNELS  := 6.1 6.12
PACKAGES := ./nft/... ./bpf ./conntrack ./internal/confine ./engine ./engine/internal/hooks ./internal/lab/... ./integration
RUN      := .
FLAGS    :=

kernels: ## the tests on Debian's kernels, by emulation: KERNELS=6.1 RUN=TestX PACKAGES=./integration FLAGS=-v
	failed=0; for kernel in $(KERNELS); do echo "== Linux $$kernel"; \
		NFTNAT_TEST_LONG=1 NFTNAT_TEST_NETNS=require CGO_ENABLED=0 $(GO) test -count=1 -p 1 -timeout 120m -run '$(RUN)' $(FLAGS) \
			-exec "$(CURDIR)/integration/kernels/run $$kernel" $(PACKAGES) || failed=1; done; exit $$failed

NFT_SUITES   := trixie sid
NFT_PACKAGES := ./nft/... ./conntrack ./internal/lab/labtest ./integration

nft-versions: ## the tests with nft of later releases of Debian: NFT_SUITES=sid NFT_PACKAGES=./nft
	failed=0; for suite in $(NFT_SUITES); do \
		nft=$$(integration/nft-versions/fetch $$suite) || exit 1; echo "== nft of Debian $$suite"; \
		PATH=$$nft:$$PATH NFTNAT_TEST_NETNS=require $(GO) test -count=1 -run '$(RUN)' $(NFT_PACKAGES) || failed=1; \
	done; exit $$failed

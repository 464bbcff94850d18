# Everything a contributor runs. Integration tests make namespaces of their own and
# need root, or a kernel that lets users make them.

GO     ?= go
ARCHES := amd64 arm64 arm riscv64 mips s390x
GIB    := 1073741824

.PHONY: check build test integration fuzz soak lint big-endian cross kernels bench-once bench-compare

check: lint cross test integration ## all that .ci/run does

build: ## one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o nftnat ./cmd/nftnat

test: ## everything; what needs namespaces is skipped where there are none
	$(GO) test -race -shuffle=on ./...

TESTS := NFTNAT_TEST_NETNS=require NFTNAT_PROXY_BYTES=$(GIB) $(GO) test -race -shuffle=on -count=1 -timeout 18m

# Those of ./integration measure what others may not disturb, and take turns with the rest.
integration: ## everything, and nothing may be skipped
	$(TESTS) ./integration
	$(TESTS) $$($(GO) list ./... | grep -v '/integration$$')

FUZZTIME ?= 60s
SOAK     ?= 1h
FUZZ     ?= ./...

fuzz: ## every fuzz target of every package, one after another: FUZZTIME=10s FUZZ=./nft
	GO="$(GO)" .ci/fuzz $(FUZZTIME) $(FUZZ)

soak: ## random deeds, flushes, kills and takeovers for that long: SOAK=24h
	NFTNAT_TEST_NETNS=require NFTNAT_SOAK=$(SOAK) $(GO) test -count=1 -timeout 0 -v -run 'TestSoak$$' ./integration

# Where the hot paths have benchmarks beside their code.
BENCHED := ./alloc ./conntrack ./engine ./nft ./proxy

bench-once: ## each Go benchmark of the hot paths once: that they run, not how fast
	BENCH_SECONDS=0.02 $(GO) test -run '^$$' -bench . -benchtime 1x $(BENCHED)

BASE  ?=
COUNT ?= 6

bench-compare: ## the hot paths here and at the previous tag, by benchstat: BASE=COMMIT COUNT=10
	GO="$(GO)" .ci/bench-compare $(COUNT) $(BASE)

lint: ## format, vet, and the linters, which hold the architecture
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	golangci-lint run ./...

cross: ## builds without cgo for all architectures that are promised
	for arch in $(ARCHES); do echo $$arch; CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -o /dev/null ./cmd/nftnat || exit 1; done

big-endian: ## the codecs and allocators on s390x, by emulation
	GOARCH=s390x CGO_ENABLED=0 $(GO) test -exec qemu-s390x-static ./nft ./alloc

# Not ./proxy: it knows of sockets alone, and half of its tests are about load, with
# which an emulated processor is not fast enough. Those of ./integration use proxies.
KERNELS  := 6.1 6.12
PACKAGES := ./nft/... ./conntrack ./confine ./engine ./lab/... ./integration
RUN      := .

kernels: ## the tests on Debian's kernels, by emulation: KERNELS=6.1 RUN=TestX PACKAGES=./integration
	failed=0; for kernel in $(KERNELS); do echo "== Linux $$kernel"; \
		NFTNAT_TEST_NETNS=require CGO_ENABLED=0 $(GO) test -count=1 -p 1 -timeout 120m -run '$(RUN)' \
			-exec "$(CURDIR)/integration/kernels/run $$kernel" $(PACKAGES) || failed=1; done; exit $$failed

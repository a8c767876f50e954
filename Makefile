# Rollcall. Each target does its own set-up; see scripts/setup.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GO ?= go
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X rollcall/internal/cli.version=$(VERSION)

# How much the long tests do. `make crash` and `make fuzz` are the full ones.
FUZZTIME ?= 5m

.PHONY: help build cross test lint bench bench-peers fuzz crash hostile soak mutate clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/rollcall and bin/rollcall-audit, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

cross: ## compile for the systems that are supported: static Linux binaries, macOS, Windows
	@for t in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64; do \
		echo "cross: $$t"; CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build -trimpath -o /dev/null ./cmd/rollcall || exit 1; done

test: ## run all tests with the race detector (installs mosquitto, Mbed TLS, Chromium and npm packages)
	@scripts/setup test
	$(GO) vet ./...
	$(GO) test -race -timeout 10m ./...
	ROLLCALL_TEST_DRIVER=goroutines $(GO) test -race -timeout 10m ./internal/mqtt/broker
	$(GO) test -timeout 10m -run 'FlippedBits|SmearedSectors' ./internal/store/pebble
	cd tools/mutate && $(GO) test ./...

lint: ## gofmt, vet, staticcheck and a short golangci-lint list
	@scripts/lint

bench: ## measure the whole system; docs/performance.md tells what the figures mean
	@scripts/setup bench
	$(GO) run ./bench $(BENCHFLAGS)

bench-peers: ## measure the broker beside mosquitto, nats-server and mochi (PEERFLAGS=-quick)
	@scripts/setup peers
	$(GO) run ./bench peers $(PEERFLAGS)

fuzz: ## fuzz every parser and whole conversations, FUZZTIME each (default 5m)
	@scripts/fuzz $(FUZZTIME)

crash: ## the full crash campaign: kill -9, power cuts, flipped bits, a million stored sessions, storms
	@scripts/setup test
	ROLLCALL_CRASH_ROUNDS=200 ROLLCALL_POWERCUTS=1000 ROLLCALL_SESSIONS=19000 ROLLCALL_TAKEOVERS=10000 \
	ROLLCALL_STORM=5000 ROLLCALL_STORED_SESSIONS=1000000 ROLLCALL_FLIPS=10000 ROLLCALL_SMEARS=2000 \
		$(GO) test -count=1 -timeout 90m -v -run 'Crash|PowerCut|Kill|FlippedBits|SmearedSectors|Storm|ManySessions|Expiry|DelayedWill' ./test/crash/... ./internal/store/...

HOSTILE ?= hostile.md
hostile: ## attack a server at full size: memory at the worst moment and a bystander's times, as a table in HOSTILE
	rm -f $(HOSTILE)
	ROLLCALL_HOSTILE_TABLE=$(abspath $(HOSTILE)) ROLLCALL_HOSTILE_PASSWORDS=5000 ROLLCALL_HOSTILE_UNFINISHED=1000 \
	ROLLCALL_HOSTILE_FAN=10000 ROLLCALL_HOSTILE_RETAINED=500000 \
		$(GO) test -count=1 -timeout 60m -v ./test/hostile
	@echo '| attack | MiB in quiet | at worst | p50 ms in quiet | attacked | p99 ms in quiet | attacked | messages |'; echo '|---|---|---|---|---|---|---|---|'; cat $(HOSTILE)

SOAK ?= 30m
soak: ## half an hour (SOAK) of a bit of everything; memory, goroutines and descriptors stay flat
	ROLLCALL_SOAK=$(SOAK) $(GO) test -count=1 -timeout 24h -v -run 'Soak' ./test/soak

mutate: ## put faults into a package (PKG=./internal/grid) and list those that its tests do not notice; docs/mutation.md
	@scripts/mutate $(PKG) $(MUTATEFLAGS)

clean: ## remove what build made
	rm -rf $(BIN)

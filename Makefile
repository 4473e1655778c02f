# The commands of this project; continuous integration runs only these. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Prerequisites are made in their order. Parallel jobs would not help, because cargo uses all cores itself.
.NOTPARALLEL:

# A fixed target folder, because spin.toml and the programs find each other by it, whatever this machine's cargo is set
# to.
export CARGO_TARGET_DIR := $(CURDIR)/target

WASM := --target wasm32-wasip2
# The crates in functions/. They are built for WebAssembly only, except for unit tests that need no Spin.
COMPONENTS := -p renga-api -p renga-database
TOOLS := .cache/tools/bin

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what building needs and is missing (Rust toolchain, C compiler)
	@scripts/setup.sh

.PHONY: build
build: setup ## build the WebAssembly components, then the programs
	cargo build --release $(WASM) -p renga-api
	cargo build

.PHONY: up
up: setup build ## run everything here: API, reconciler, SQLite, Docker; Ctrl-C stops it
	@exec scripts/up.sh

.PHONY: servers
servers: ## install and start what the tests run against (PostgreSQL, Keycloak, Docker, Kubernetes)
	@scripts/servers.sh || echo '!!! going on without it: the tests that need it will say that they could not run' >&2

.PHONY: cluster
cluster: ## start a Kubernetes cluster of one node to try things on; prints how to reach it
	@scripts/kubebox.sh prepare
	@scripts/cluster.sh up

.PHONY: cluster-down
cluster-down: ## end that cluster
	@scripts/cluster.sh down

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: check
check: setup ## the quick checks: format, lints for both targets, documentation, unit tests
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy $(COMPONENTS) -p renga-shared -p renga-host-guest -p renga-tests-guest -p renga-benches-guest $(WASM) -- -D warnings
	cargo check -p renga-shared
	cargo check -p renga-shared $(WASM)
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps $(COMPONENTS) $(WASM)
	cargo test --no-fail-fast --lib --bins
	cargo test --no-fail-fast --lib $(COMPONENTS)

.PHONY: test
test: setup servers build check lint ## everything: set-up, build, checks, and all tests on the real servers
	@scripts/test.sh

.PHONY: lint
lint: setup ## further lints: licences, bans and sources, unused dependencies, shell scripts
	@scripts/lint-tools.sh
	$(TOOLS)/cargo-deny check --hide-inclusion-graph bans licenses sources
	$(TOOLS)/cargo-machete --skip-target-dir
	shellcheck -x scripts/*.sh .ci/run

.PHONY: advisories
advisories: setup ## known vulnerabilities in dependencies (clones the advisory database)
	@scripts/lint-tools.sh
	$(TOOLS)/cargo-deny check advisories

.PHONY: bench
bench: setup servers ## benchmarks beside their yardsticks, from a release build
	@command -v wrk >/dev/null || (. scripts/machine.sh && install_packages wrk)
	cargo build --release $(WASM) -p renga-api -p renga-benches-guest
	cargo build --release
	target/release/renga-benches

.PHONY: fuzz
fuzz: setup ## fuzz each target for FUZZ_SECONDS (60); see fuzz/README.md
	@scripts/fuzz.sh

.PHONY: fuzz-corpus
fuzz-corpus: setup ## add what fuzzing found to the corpora that `make test` replays
	@scripts/fuzz.sh keep

.PHONY: clean
clean: ## remove what was built; the tools and caches of .cache/ stay
	cargo clean

#!/usr/bin/env bash
# Installs missing build requirements: the Rust toolchain that rust-toolchain.toml pins, a C compiler, curl.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

missing=()
# C compiler: SQLite, zstd and the cryptography are compiled from C.
{ have cc && [ -e /usr/include/stdio.h ]; } || missing+=(gcc libc6-dev)
have curl || missing+=(curl ca-certificates)
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"

have rustup || fail "rustup is not installed: it provides the pinned Rust toolchain and its WebAssembly target" \
    "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain none" \
    "then open a new shell and run make again"

# Whether the pinned toolchain, with its components and target, works without installing anything.
toolchain_is_complete() {
    RUSTUP_AUTO_INSTALL=0 cargo fmt --version >/dev/null 2>&1 &&
        RUSTUP_AUTO_INSTALL=0 cargo clippy --version >/dev/null 2>&1 &&
        rustup target list --installed 2>/dev/null | grep -q '^wasm32-wasip2$'
}

if ! toolchain_is_complete; then
    say "installing the Rust toolchain that rust-toolchain.toml pins"
    rustup toolchain install || fail "rustup could not install the toolchain" \
        "rustup older than 1.28 does not read rust-toolchain.toml here: run rustup self update, then make again"
    toolchain_is_complete || fail "the toolchain of rust-toolchain.toml is still incomplete" \
        "see what it names, and what rustup show and rustup target list --installed say"
fi

#!/usr/bin/env bash
# Installs the tools of `make lint`, at fixed versions, into .cache/tools (kept by `make clean`).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

install_tool() {
    local name=$1 version=$2
    [ "$(".cache/tools/bin/$name" --version 2>/dev/null | awk '{ print $NF }')" != "$version" ] || return 0
    say "building $name $version, once (without optimisation: it is used for seconds)"
    # Its build is thrown away: it does not belong into the project's target folder.
    env -u CARGO_TARGET_DIR cargo install "$name" --version "$version" --locked --debug --quiet --root .cache/tools
}

install_tool cargo-deny 0.20.2
install_tool cargo-machete 0.9.2
have shellcheck || install_packages shellcheck

#!/usr/bin/env bash
# Installs the tools of `make lint`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh
# shellcheck source=scripts/install-tool.sh
. scripts/install-tool.sh

install_tool cargo-deny 0.20.2
install_tool cargo-machete 0.9.2
have shellcheck || install_packages shellcheck

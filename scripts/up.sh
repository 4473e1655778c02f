#!/usr/bin/env bash
# Runs the programs of `make build`, and suggests a command with an image that needs no registry.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

# Without an engine, everything but launching works, and the program reports that.
image=
if scripts/docker-engine.sh up; then
    have_static_busybox || (install_packages busybox-static) || true
    # Built as part of the workspace, because a build of one package would compile its dependencies again, with fewer
    # features.
    image=$(cargo run --quiet --example try-image) ||
        say "going on without an image of our own: the command below pulls one"
else
    printf '!!! going on without Docker: executions will wait for it\n' >&2
fi
exec target/debug/renga-deployer up --dev ${image:+--try-image "$image"} "$@"

#!/usr/bin/env bash
# Runs what `make build` built, with a suggestion that can be followed: an image that needs no registry.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

# Without an engine everything but launching works, and says so.
image=
if scripts/docker-engine.sh up; then
    have_static_busybox || (install_packages busybox-static) || true
    # Of the whole workspace: for one package alone its dependencies would be built once more, with fewer features.
    image=$(cargo run --quiet --example try-image) ||
        say "going on without an image of our own: the command below pulls one"
else
    printf '!!! going on without Docker: executions will wait for it\n' >&2
fi
exec target/debug/renga-deployer up --dev ${image:+--try-image "$image"} "$@"

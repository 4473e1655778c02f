# shellcheck shell=bash
# How development tools are installed: at fixed versions, into .cache/tools (kept by `make clean`). Sourced, not run, after
# machine.sh and from the project's folder.

install_tool() {
    local name=$1 version=$2
    [ "$(".cache/tools/bin/$name" --version 2>/dev/null | awk '{ print $NF }')" != "$version" ] || return 0
    say "building $name $version, once (without optimisation: it is used for seconds)"
    # Its build is thrown away: it does not belong into the project's target folder.
    env -u CARGO_TARGET_DIR cargo install "$name" --version "$version" --locked --debug --quiet --root .cache/tools
}

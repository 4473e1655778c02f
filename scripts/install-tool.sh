# shellcheck shell=bash
# Installs development tools at fixed versions into .cache/tools, which `make clean` keeps. Sourced, not run, after
# machine.sh and from the project's folder.

install_tool() {
    local name=$1 version=$2
    [ "$(".cache/tools/bin/$name" --version 2>/dev/null | awk '{ print $NF }')" != "$version" ] || return 0
    say "building $name $version, once (without optimisation: it is used for seconds)"
    # The build goes to a temporary folder, because the project's target folder is not for tools.
    env -u CARGO_TARGET_DIR cargo install "$name" --version "$version" --locked --debug --quiet --root .cache/tools
}

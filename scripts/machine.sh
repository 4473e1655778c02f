# shellcheck shell=bash
# What every set-up script needs to say and do on a machine. Sourced, not run.

# Everything a script prints goes to standard error: standard output is for answers.
say() { printf '==> %s\n' "$*" >&2; }

# One message that names the thing and the cure, then the end.
fail() {
    printf '!!! %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command with root's rights, or ends with what to do by hand.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*" "run that command as root, then make again"
    fi
}

# Installs Debian packages. A fresh image has no package lists, so they are fetched when the first try finds nothing.
install_packages() {
    have apt-get || fail "missing system packages: $*" \
        "this machine has no apt-get: install their equivalents with its package manager, then run make again"
    say "installing system packages: $*"
    local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
    local said
    said=$(mktemp)
    # In shells of their own: the first try may fail, and its words matter only if the second fails as well.
    if ! (as_root "${install[@]}") >"$said" 2>&1 &&
        ! (as_root apt-get update -q && as_root "${install[@]}") >"$said" 2>&1; then
        cat "$said" >&2
        rm -f "$said"
        fail "could not install: $*" "see above; install them by hand, then run make again"
    fi
    rm -f "$said"
}

# A busybox that needs no libraries: it is the only file of the image that the tests run and `make up` suggests.
have_static_busybox() {
    local busybox
    busybox=$(command -v busybox) && ! grep -q -a -e /ld-lin -e /ld-mus "$busybox"
}

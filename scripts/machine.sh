# shellcheck shell=bash
# Functions of all set-up scripts: output, root rights, packages, prepared folders. Sourced, not run.

# Messages go to standard error, because standard output is for results.
say() { printf '==> %s\n' "$*" >&2; }

# Prints one message that names the problem and the cure, then exits.
fail() {
    printf '!!! %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root. Fails with a hint if that is not possible.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: $*" "run that command as root, then make again"
    fi
}

# Installs Debian packages. A fresh image has no package lists, so they are fetched if the first attempt fails.
install_packages() {
    have apt-get || fail "missing system packages: $*" \
        "this machine has no apt-get: install their equivalents with its package manager, then run make again"
    say "installing system packages: $*"
    local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
    local said
    said=$(mktemp)
    # In subshells: the first attempt may fail, and its output matters only if the second fails as well.
    if ! (as_root "${install[@]}") >"$said" 2>&1 &&
        ! (as_root apt-get update -q && as_root "${install[@]}") >"$said" 2>&1; then
        cat "$said" >&2
        rm -f "$said"
        fail "could not install: $*" "see above; install them by hand, then run make again"
    fi
    rm -f "$said"
}

# Whether busybox is static, because it is the only program file of the image that the tests run and `make up` suggests.
have_static_busybox() {
    local busybox
    busybox=$(command -v busybox) && ! grep -q -a -e /ld-lin -e /ld-mus "$busybox"
}

# Prepares a folder once per machine, because the work takes long: prepare_once TITLE NAME LINK NEEDS MAKE. The folder
# is in the user's cache, or else in .cache. Its name has a digest of all inputs, so that clones share it. If the folder
# does not exist, NEEDS installs the required tools, and MAKE fills the folder that it is given; its output goes to
# prepare.log in that folder. LINK becomes a link to the folder.
prepare_once() {
    local title=$1 link=$3 needs=$4 make=$5 base=$PWD/.cache user=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}} folder
    if [ -n "$user" ] && mkdir -p "$user/renga-deployer" 2>/dev/null && [ -w "$user/renga-deployer" ]; then
        base=$user/renga-deployer
    fi
    folder=$base/$2
    mkdir -p .cache "$base"
    if [ ! -d "$folder" ]; then
        # Another clone may be doing the same work. The second one then finds it done.
        exec 9>"$folder.lock"
        flock -n 9 || { say "$title: waiting for another run that prepares it" && flock 9; }
        [ -d "$folder" ] || make_prepared "$title" "$folder" "$needs" "$make"
        exec 9>&-
    fi
    [ "$(readlink "$link")" = "$folder" ] || ln -sfn "$folder" "$link"
}

# The folder gets its final name only when it is complete.
make_prepared() {
    local title=$1 new=$2.new needs=$3 make=$4
    "$needs"
    rm -rf "$new"
    mkdir "$new"
    say "$title: preparing it, once for this machine, in $2"
    # In the background, because bash ignores `set -e` in a command before || or in an `if`.
    "$make" "$new" >"$new/prepare.log" 2>&1 &
    if ! wait $!; then
        tail -n 15 "$new/prepare.log" >&2
        fail "$title could not be prepared" "its last words are above, all of them in $new/prepare.log"
    fi
    mv "$new" "$2"
}

# Prints the folder of the plugins that give pods their network: Debian's, or else one of other distributions.
network_plugins() {
    local folder
    for folder in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
        if [ -x "$folder/bridge" ]; then
            echo "$folder"
            return
        fi
    done
}

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

# What takes long to prepare is prepared once per machine, in a folder of the user's cache (of .cache where there is none)
# whose name tells all that it is made of, so that clones share it: prepare_once TITLE NAME LINK NEEDS MAKE.
# Where there is none yet, NEEDS installs what the work needs, and MAKE fills the folder that it is given, with
# prepare.log in it for its output. LINK becomes a link to that folder.
prepare_once() {
    local title=$1 link=$3 needs=$4 make=$5 base=$PWD/.cache user=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}} folder
    if [ -n "$user" ] && mkdir -p "$user/renga-deployer" 2>/dev/null && [ -w "$user/renga-deployer" ]; then
        base=$user/renga-deployer
    fi
    folder=$base/$2
    mkdir -p .cache "$base"
    if [ ! -d "$folder" ]; then
        # Another clone may be at the same work: the second to come finds it done.
        exec 9>"$folder.lock"
        flock -n 9 || { say "$title: waiting for another run that prepares it" && flock 9; }
        [ -d "$folder" ] || make_prepared "$title" "$folder" "$needs" "$make"
        exec 9>&-
    fi
    [ "$(readlink "$link")" = "$folder" ] || ln -sfn "$folder" "$link"
}

# Only what is complete gets the folder's name.
make_prepared() {
    local title=$1 new=$2.new needs=$3 make=$4
    "$needs"
    rm -rf "$new"
    mkdir "$new"
    say "$title: preparing it, once for this machine, in $2"
    # In the background, since bash would go on after a failed command in what stands before || or in an `if`.
    "$make" "$new" >"$new/prepare.log" 2>&1 &
    if ! wait $!; then
        tail -n 15 "$new/prepare.log" >&2
        fail "$title could not be prepared" "its last words are above, all of them in $new/prepare.log"
    fi
    mv "$new" "$2"
}

# The folder of the plugins that give pods their network: Debian's place, then the others'.
network_plugins() {
    local folder
    for folder in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
        if [ -x "$folder/bridge" ]; then
            echo "$folder"
            return
        fi
    done
}

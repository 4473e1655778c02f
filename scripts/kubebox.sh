#!/usr/bin/env bash
# Provides Kubernetes for test clusters: kubebox.sh prepare, or kubebox.sh version X.Y.Z
#
# `prepare` installs what a node needs (containerd, network plugins, iptables, busybox) and builds tests/cluster, once
# per machine. .cache/kubernetes is a link to the prepared folder:
#   kubebox       all programs of a cluster, and kubectl
#   go.mod        the versions of the build
#   prepare.log
# `version` writes tests/cluster/go.mod and go.sum for another version of Kubernetes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

source=tests/cluster
link=.cache/kubernetes

version=$(sed -n 's:^\tk8s.io/kubernetes v::p' "$source/go.mod")
minor=${version#*.}
go_version=$(sed -n 's/^go //p' "$source/go.mod")
# The version that the programs report, set as in Kubernetes' own build.
stamp=k8s.io/component-base/version
build_options=(-trimpath -ldflags "-s -w -X $stamp.gitVersion=v$version -X $stamp.gitMajor=${version%%.*} -X $stamp.gitMinor=${minor%%.*} \
-X $stamp.gitCommit=module -X $stamp.gitTreeState=clean")

prepare() {
    local -a missing=()
    [ -n "$(network_plugins)" ] || missing+=(containernetworking-plugins)
    { have containerd && have ctr; } || missing+=(containerd)
    { have iptables || [ -x /usr/sbin/iptables ]; } || missing+=(iptables)
    { have ip || [ -x /usr/sbin/ip ]; } || missing+=(iproute2)
    { have unshare && have nsenter; } || missing+=(util-linux)
    have openssl || missing+=(openssl)
    have_static_busybox || missing+=(busybox-static)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"

    local digest
    digest=$( (cat "$source"/{go.mod,go.sum,main.go} && echo "${build_options[@]}") | sha256sum | cut -c 1-12)
    prepare_once Kubernetes "kubernetes-$version-$digest" "$link" needs make
}

# From 1.21 on, an older Go downloads the version in go.mod and reports that version, unless GOTOOLCHAIN forbids it.
go_is_recent() {
    local found
    have go && found=$(cd "$source" && go env GOVERSION) && printf 'go%s\n%s\n' "$go_version" "$found" | sort -C -V
}

needs() {
    if ! have go && apt-cache policy golang-go 2>/dev/null | grep -qE 'Candidate: 2:1\.(2[1-9]|[3-9][0-9])'; then
        install_packages golang-go
    fi
    go_is_recent || fail "building Kubernetes needs Go $go_version or later" \
        "install it from https://go.dev/dl/, and see that go in PATH is that one"
    say "Kubernetes: 7 minutes on two cores, 4 GB of Go's caches"
}

make() {
    local into=$1
    cd "$source"
    cp go.mod "$into/"
    CGO_ENABLED=0 go build "${build_options[@]}" -o "$into/kubebox" .
    "$into/kubebox" kubectl version --client
}

# Kubernetes takes its staging modules from folders of its own repository. Each is also published under the same number.
set_version() {
    local wanted=$1 said theirs
    go_is_recent || needs
    cd "$source"
    said=$(go mod download -json "k8s.io/kubernetes@v$wanted") || fail "there is no Kubernetes $wanted to be had: $said"
    theirs=$(sed -n 's/.*"GoMod": "\(.*\)".*/\1/p' <<<"$said")
    {
        sed '/^module /,$d' go.mod
        sed -e '1,/^module /d' -e "s#=> \./staging/src/\(k8s.io/[a-z-]*\)#=> \1 v0.${wanted#*.}#" "$theirs" |
            sed '1i module kubebox'
        echo "require k8s.io/kubernetes v$wanted"
    } >go.mod.new
    mv go.mod.new go.mod
    # Sorts the requirements, adds etcd's server to them, and fills go.sum.
    go list -mod=mod -deps . >/dev/null
    say "tests/cluster requires Kubernetes $wanted: run make servers, then the tests"
}

case "${1:-} $#" in
    'prepare 1') prepare ;;
    'version 2') set_version "${2#v}" ;;
    *) fail "unknown command '$*'" "use: scripts/kubebox.sh prepare, or scripts/kubebox.sh version X.Y.Z" ;;
esac

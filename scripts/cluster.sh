#!/usr/bin/env bash
# Runs Kubernetes clusters of one node each, from the programs that scripts/kubebox.sh prepared:
#
#   cluster.sh up|down|status           one to work with, in .cache/cluster; `up` prints how to reach it
#   cluster.sh kubectl ARGUMENT…        kubectl for it
#   cluster.sh serve FOLDER [--control-plane-only]
#                                       becomes a cluster with its state in FOLDER, which must not exist yet;
#                                       FOLDER/ready appears when pods can be made. --control-plane-only: no node
#   cluster.sh part FOLDER PART kill|start|pause|continue
#                                       what becomes of a part, such as kube-apiserver or kubelet
#   cluster.sh network FOLDER cut|mend  the link between this machine and the cluster
#   cluster.sh image FOLDER NAME TAR    gives the node an image whose file system is TAR
#   cluster.sh clean FOLDER             ends the cluster, and removes what it leaves: interface, cgroups, FOLDER
#
# A cluster lives in network, mount and process namespaces of its own: all that it makes (packet-filter rules, mounts,
# processes) ends with its first process. Files in FOLDER:
#   admin.conf        kubeconfig of the administrator, with a token
#   admin-cert.conf   the same with a client certificate
#   settings          names and addresses (NAME, NODE_IP, KUBEBOX…)
#   log/              output of each part
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

state=$(realpath -m .cache/cluster)
kubebox=$PWD/.cache/kubernetes/kubebox
ready_within=180 # seconds; it takes 5 on an idle machine

# Prints the pid of the cluster's process if it runs. The command line is compared, because the pid may have been
# reused.
runs() {
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "cluster-node.sh $1 " && echo "$pid"
}

# Prints the pid, on this machine, of the first process in the cluster's namespaces.
first_process() {
    local pid
    pid=$(runs "$1") || fail "no cluster runs in $1" "its logs, if there are any: $1/log"
    tr -d ' ' <"/proc/$pid/task/$pid/children"
}

# Prints the folder with its links resolved, so that it has one name.
folder_of() { realpath -m "$1"; }

serve() {
    local folder name node=yes
    folder=$(folder_of "$1")
    [ "${2:-}" != --control-plane-only ] || node=no
    [ "$(id -u)" = 0 ] || fail "a Kubernetes cluster needs root" "run this as root"
    [ -x "$kubebox" ] || fail "there is no Kubernetes in .cache/kubernetes" "run make servers"
    cmp -s tests/cluster/go.mod .cache/kubernetes/go.mod ||
        fail "what is in .cache/kubernetes is another version than tests/cluster/go.mod asks for" "run make servers"
    [ ! -e "$folder" ] || fail "$folder is there already" "end what is in it: scripts/cluster.sh clean $folder"
    case $folder/ in
        /var/* | /run/*) fail "a cluster cannot have its state in $folder: its /var and /run are its own" \
            "choose another folder; for the tests: TMPDIR=/tmp" ;;
    esac
    unshare --net --mount --pid --fork true ||
        fail "this machine does not let root make namespaces" "in a container: start it with --privileged"

    umask 077
    mkdir -p "$folder"/{pki,var,log,cni,images,parts,etcd}
    echo $$ >"$folder/pid"
    NODE=$node FOLDER=$folder
    PLUGINS=$(network_plugins)
    claim_network
    for name in FOLDER NODE MACHINE_IP NODE_IP SERVICES PODS; do echo "$name='${!name}'"; done >>"$folder/settings"
    echo "KUBEBOX='$(readlink -f "$kubebox")'" >>"$folder/settings"
    make_certificates "$folder/pki"
    make_credentials
    if [ "$NODE" = yes ]; then
        # shellcheck source=scripts/cluster-node-files.sh
        . scripts/cluster-node-files.sh
        make_node_files
    fi
    # The new process takes its end of the link from this network namespace, whose handle it inherits.
    exec 5</proc/self/ns/net
    exec unshare --net --mount --pid --fork --kill-child bash "$PWD/scripts/cluster-node.sh" "$folder" </dev/null
}

# Makes a link to the cluster under an unused name. The number in the name also reserves the three networks.
claim_network() {
    local number said='' routes
    routes=$(ip -4 route)
    for number in {0..255}; do
        NAME=renga-k$number
        case $routes in *"10.21"[456]".$number.0/24"*) continue ;; esac
        if said=$(ip link add "$NAME" type veth peer name "${NAME}n" 2>&1); then
            # Written at once, so that `clean` knows the name even if a later step fails.
            echo "NAME='$NAME'" >"$FOLDER/settings"
            MACHINE_IP=10.214.$number.1 NODE_IP=10.214.$number.2 SERVICES=10.215.$number PODS=10.216.$number
            ip address add "$MACHINE_IP/24" dev "$NAME"
            ip link set "$NAME" up
            ip route add "$SERVICES.0/24" via "$NODE_IP"
            ip route add "$PODS.0/24" via "$NODE_IP"
            return
        fi
    done
    fail "no network for a cluster: ${said:-all of 10.214.*.0/24 are taken}" \
        "delete left-over interfaces with: ip link delete renga-k0 (and so on)"
}

make_certificates() {
    cat >"$1/openssl.cnf" <<END
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:$NODE_IP, IP:$SERVICES.1, DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
END
    certificate() { # FOLDER NAME SUBJECT KIND [OPTION…]
        openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 3650 -config "$1/openssl.cnf" \
            -keyout "$1/$2.key" -out "$1/$2.crt" -subj "$3" -extensions "$4" "${@:5}" 2>>"$1/openssl.log" ||
            fail "openssl could not make the certificate $2: $(tail -n 1 "$1/openssl.log")" "install OpenSSL 3.0 or later"
    }
    local signed=(-CA "$1/ca.crt" -CAkey "$1/ca.key")
    certificate "$1" ca "/CN=$NAME" ca
    certificate "$1" server /CN=kube-apiserver server "${signed[@]}"
    certificate "$1" admin /O=system:masters/CN=admin client "${signed[@]}"
    openssl ecparam -name prime256v1 -genkey -noout -out "$1/service-accounts.key"
}

# Makes a token for each part and for the administrator, and the kubeconfigs with these tokens.
make_credentials() {
    credential() { # FILE USER [GROUP]
        local token
        token=$(openssl rand -hex 16)
        echo "$token,$2,$2${3:+,\"$3\"}" >>"$FOLDER/tokens.csv"
        kubeconfig "token: $token" >"$FOLDER/$1.conf"
    }
    credential admin admin system:masters
    credential controller-manager system:kube-controller-manager
    credential scheduler system:kube-scheduler
    credential proxy system:kube-proxy
    credential kubelet "system:node:$NAME" system:nodes
    kubeconfig "client-certificate-data: $(base64 -w 0 "$FOLDER/pki/admin.crt")" \
        "client-key-data: $(base64 -w 0 "$FOLDER/pki/admin.key")" >"$FOLDER/admin-cert.conf"
    # With `sudo` the files belong to root, but the user who ran it needs access to the cluster.
    chown "${SUDO_UID:-0}" "$FOLDER" "$FOLDER"/admin*.conf "$FOLDER/settings"
}

kubeconfig() { # USER'S FIELD…
    cat <<END
apiVersion: v1
kind: Config
clusters:
- name: $NAME
  cluster:
    server: https://$NODE_IP:6443
    certificate-authority-data: $(base64 -w 0 "$FOLDER/pki/ca.crt")
users:
- name: admin
  user:
$(printf '    %s\n' "$@")
contexts:
- name: $NAME
  context: {cluster: $NAME, user: admin}
current-context: $NAME
END
}

part() {
    local folder part=$2 first pid
    folder=$(folder_of "$1")
    first=$(first_process "$folder")
    pid=$(cat "$folder/parts/$part" 2>/dev/null) || fail "the cluster has no part $part" "it has: $(cd "$folder/parts" && echo *)"
    inside() { nsenter --target "$first" --pid kill -s "$1" "$pid" 2>/dev/null; }
    case $3 in
        kill)
            touch "$folder/parts/$part.down"
            inside KILL || true
            while inside 0; do sleep 0.02; done
            ;;
        start) rm -f "$folder/parts/$part.down" ;;
        pause) inside STOP || fail "$part does not run" "start it first" ;;
        continue) inside CONT || fail "$part does not run" "start it first" ;;
        *) usage "part $*" ;;
    esac
}

# Changes the cluster's end of the link, because routes on this side would be lost with the interface.
network() {
    local first
    first=$(first_process "$(folder_of "$1")")
    case $2 in
        cut) nsenter --target "$first" --net ip link set uplink down ;;
        mend) nsenter --target "$first" --net ip link set uplink up ;;
        *) usage "network $*" ;;
    esac
}

image() {
    local first
    first=$(first_process "$(folder_of "$1")")
    # shellcheck source=scripts/cluster-node-files.sh
    . scripts/cluster-node-files.sh
    image_archive "$2" "$3" |
        ctr --address "/proc/$first/root/run/containerd/containerd.sock" --namespace k8s.io images import - >/dev/null
}

clean() {
    local folder pid tries=0
    folder=$(folder_of "$1")
    [ -e "$folder/pid" ] || return 0
    if pid=$(runs "$folder"); then kill -KILL "$pid"; fi
    # The cluster may have ended before its network was chosen.
    NAME=
    # shellcheck disable=SC1091 # made by `serve`
    [ ! -e "$folder/settings" ] || . "$folder/settings"
    if [ -n "$NAME" ]; then
        ip link delete "$NAME" 2>/dev/null || true
        # The kernel kills the processes one after another. A cgroup that still has a process cannot be removed.
        until find /sys/fs/cgroup -depth -type d \( -path "*/$NAME" -o -path "*/$NAME/*" \) -exec rmdir {} + 2>/dev/null; do
            tries=$((tries + 1))
            [ "$tries" -lt 100 ] || fail "cgroups of the cluster are left: /sys/fs/cgroup/*/$NAME" "end the processes in them"
            sleep 0.1
        done
    fi
    rm -rf "$folder"
}

up() {
    local pid
    if runs "$state" >/dev/null && [ -e "$state/ready" ]; then
        status
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        as_root "$PWD/scripts/cluster.sh" up
        return
    fi
    clean "$state"
    # In a session of its own, so that neither the end of make nor Ctrl-C at its terminal ends the cluster.
    setsid scripts/cluster.sh serve "$state" >"$state.log" 2>&1 </dev/null &
    pid=$!
    local start=$SECONDS
    until [ -e "$state/ready" ]; do
        if ! kill -0 "$pid" 2>/dev/null || [ $((SECONDS - start)) -gt $ready_within ]; then
            tail -n 8 "$state.log" >&2
            fail "the cluster did not come up" "its last words are above; what each part wrote is in $state/log"
        fi
        sleep 0.1
    done
    status
}

status() {
    if runs "$state" >/dev/null; then
        # shellcheck disable=SC1091 # made by `serve`
        . "$state/settings"
        say "Kubernetes: a cluster runs, https://$NODE_IP:6443 (end it with: make cluster-down)"
        echo "export KUBECONFIG=$state/admin.conf"
    else
        say "Kubernetes: no cluster runs (start one with: make cluster)"
        exit 1
    fi
}

down() {
    if [ -e "$state/pid" ]; then
        as_root "$PWD/scripts/cluster.sh" clean "$state"
        say "Kubernetes: the cluster has ended"
    else
        say "Kubernetes: no cluster runs"
    fi
}

usage() {
    local -a lines
    mapfile -t lines < <(sed -n '4,/^#$/s/^#//p' scripts/cluster.sh)
    fail "unknown command '$*'" "use one of these:" "${lines[@]}"
}

case "${1:-} $#" in
    'up 1' | 'down 1' | 'status 1' | 'serve 2' | 'serve 3' | 'part 4' | 'network 3' | 'image 4' | 'clean 2') "$@" ;;
    kubectl\ *) exec "$kubebox" kubectl --kubeconfig "$state/admin.conf" "${@:2}" ;;
    *) usage "$@" ;;
esac

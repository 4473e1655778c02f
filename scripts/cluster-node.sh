#!/usr/bin/env bash
# The first process of a cluster's namespaces: cluster-node.sh FOLDER. Started by `cluster.sh serve`, which has filled
# FOLDER. When this process ends, the kernel kills all others in the namespaces.
set -euo pipefail
umask 022
cd "$1"
# shellcheck source=/dev/null # made by `cluster.sh serve`
. ./settings

arrange_network() {
    nsenter --net=/proc/self/fd/5 ip link set "${NAME}n" netns $$
    exec 5<&-
    ip link set lo up
    ip link set "${NAME}n" name uplink
    ip address add "$NODE_IP/24" dev uplink
    ip link set uplink up
    echo 1 >/proc/sys/net/ipv4/ip_forward
}

# Mounts /run and /var of the cluster's own. unshare has made all mounts private.
arrange_files() {
    mount -t proc proc /proc
    mount -n -t tmpfs tmpfs /run
    mount --bind "$FOLDER/var" /var
    mkdir -p /var/tmp /var/log /var/lib
    ln -s /run /var/run
    # Without name resolution, a pull of a missing image fails at once.
    mount --bind /dev/null /etc/resolv.conf
    # The kubelet would change these for the whole machine, so it gets files with the values that it requires.
    local setting file
    for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
        file=/run/sysctl/${setting%=*}
        mkdir -p "${file%/*}"
        echo "${setting#*=}" >"$file"
        mount --bind "$file" "/proc/sys/${setting%=*}"
    done
    # Mounts of the kubelet must be visible in containers.
    mount --make-rshared /
}

join_cgroup() {
    local cgroup
    for cgroup in "/sys/fs/cgroup/$NAME/system" "/sys/fs/cgroup/memory/$NAME/system"; do
        [ ! -d "$cgroup" ] || echo $$ >"$cgroup/cgroup.procs"
    done
}

# Runs a part in the background for as long as the cluster lives. If the part ends while parts/PART.down exists, it
# starts again when that file is removed. If it ends without this file, the cluster ends.
parts=0
part() {
    parts=$((parts + 1))
    keep_running "$@" &
}
keep_running() {
    local part=$1
    shift
    while :; do
        "$@" >>"log/$part.log" 2>&1 &
        echo $! >"parts/$part"
        wait $! || true
        [ -e "parts/$part.down" ] || break
        while [ -e "parts/$part.down" ]; do sleep 0.05; done
    done
    echo "!!! $part ended, and so does the cluster; its last words:"
    tail -n 5 "log/$part.log"
}
kubebox() { part "$1" "$KUBEBOX" "$@"; }

# Waits until a command succeeds. It has no time limit; the process that waits for FOLDER/ready has one.
wait_for() {
    until "$@" >/dev/null 2>&1; do
        [ "$(jobs -rp | wc -l)" = "$parts" ] || exit 1
        sleep 0.05
    done
}
kubectl() { "$KUBEBOX" kubectl --kubeconfig admin.conf "$@"; }

start_control_plane() {
    kubebox etcd --data-dir etcd --unsafe-no-fsync --log-level warn \
        --listen-peer-urls http://127.0.0.1:0 --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
    kubebox kube-apiserver --etcd-servers http://127.0.0.1:2379 \
        --bind-address "$NODE_IP" --advertise-address "$NODE_IP" --secure-port 6443 \
        --tls-cert-file pki/server.crt --tls-private-key-file pki/server.key --client-ca-file pki/ca.crt \
        --token-auth-file tokens.csv --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --service-cluster-ip-range "$SERVICES.0/24" --allow-privileged \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file pki/service-accounts.key --service-account-signing-key-file pki/service-accounts.key \
        --kubelet-client-certificate pki/admin.crt --kubelet-client-key pki/admin.key \
        --kubelet-preferred-address-types InternalIP
    wait_for kubectl get --raw /readyz
    # There is one instance of each, so no leader election. With the default rate limits, many short pods would wait.
    local many=(--leader-elect=false --kube-api-qps 1000 --kube-api-burst 1000)
    kubebox kube-controller-manager --kubeconfig controller-manager.conf --use-service-account-credentials "${many[@]}" \
        --service-account-private-key-file pki/service-accounts.key --root-ca-file pki/ca.crt \
        --cluster-signing-cert-file pki/ca.crt --cluster-signing-key-file pki/ca.key
    kubebox kube-scheduler --kubeconfig scheduler.conf "${many[@]}"
}

start_containerd() {
    local image
    part containerd containerd --config containerd.toml
    for image in images/*.tar; do
        wait_for ctr --namespace k8s.io images import "$image"
    done
}

start_node() {
    kubebox kubelet --config kubelet.yaml --kubeconfig kubelet.conf --hostname-override "$NAME" --node-ip "$NODE_IP"
    # Zero: the cluster must not set the machine's limits of tracked connections.
    kubebox kube-proxy --kubeconfig proxy.conf --hostname-override "$NAME" --proxy-mode iptables \
        --conntrack-max-per-core 0 --conntrack-min 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
    wait_for kubectl wait --for=condition=Ready "node/$NAME" --timeout=5s
}

join_cgroup
arrange_files
arrange_network
[ "$NODE" = no ] || start_containerd
start_control_plane
[ "$NODE" = no ] || start_node
wait_for kubectl --namespace default get serviceaccount default
touch ready
# Waits until a part ends unexpectedly.
wait -n || true

# shellcheck shell=bash
# Writes the files of a cluster's node: configurations, images, cgroups. Sourced by cluster.sh, not run.

make_node_files() {
    cat >"$FOLDER/containerd.toml" <<END
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "renga-test/pause:1"
  # Otherwise it takes CAP_SYS_RESOURCE, which root in a container may not have.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$PLUGINS"
    conf_dir = "$FOLDER/cni"
END
    cat >"$FOLDER/cni/10-bridge.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
END
    # oomScoreAdj: a lower value needs CAP_SYS_RESOURCE. clusterDNS: no DNS server listens at this address, so look-ups
    # fail at once. evictionHard: the disk of a test machine is often full, but images and pods must stay.
    cat >"$FOLDER/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "$FOLDER/pki/ca.crt"}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: "/$NAME"
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
resolvConf: ""
clusterDNS: ["$NODE_IP"]
clusterDomain: cluster.local
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 64Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
END
    scripts/test-image.sh >"$FOLDER/root.tar"
    image_archive renga-test/busybox:1 "$FOLDER/root.tar" >"$FOLDER/images/busybox.tar"
    # The pause container only has to exist.
    image_archive renga-test/pause:1 "$FOLDER/root.tar" '"Cmd": ["/bin/sleep", "2147483647"]' >"$FOLDER/images/pause.tar"
    make_cgroups
}

# Writes an image in the format of `docker save`: image_archive NAME TAR [CONFIGURATION]
image_archive() {
    local into sum architecture
    into=$(mktemp -d)
    case $(uname -m) in aarch64) architecture=arm64 ;; *) architecture=amd64 ;; esac
    cp "$2" "$into/layer.tar"
    sum=$(sha256sum "$into/layer.tar" | cut -d ' ' -f 1)
    cat >"$into/config.json" <<END
{"architecture": "$architecture", "os": "linux", "config": {${3:-}}, "rootfs": {"type": "layers", "diff_ids": ["sha256:$sum"]}}
END
    cat >"$into/manifest.json" <<END
[{"Config": "config.json", "RepoTags": ["$1"], "Layers": ["layer.tar"]}]
END
    tar -C "$into" -cf - manifest.json config.json layer.tar
    rm -rf "$into"
}

# Makes the cluster's own cgroups, in the one tree of version 2 or in each tree of version 1. The cluster's parts run in
# `system`.
make_cgroups() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p "/sys/fs/cgroup/$NAME/system"
        return
    fi
    local tree file
    for tree in /sys/fs/cgroup/*/; do
        [ "$tree" = /sys/fs/cgroup/unified/ ] || mkdir -p "$tree$NAME"
    done
    mkdir -p "/sys/fs/cgroup/memory/$NAME/system"
    # Both are empty in a new cpuset, and no process can join a cpuset where they are empty.
    for file in cpuset.cpus cpuset.mems; do
        cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$NAME/$file"
    done
}

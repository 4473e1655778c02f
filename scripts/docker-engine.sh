#!/usr/bin/env bash
# Makes a Docker Engine available: docker-engine.sh up|down|status
#
# An engine that already responds (at DOCKER_HOST or /var/run/docker.sock) is used as it is, whoever started it.
# Otherwise, Debian's is installed and started. `down` stops only an engine that `up` started.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

state=.cache/docker-engine
socket=/var/run/docker.sock
# Set explicitly, because the client may have a context for another engine, which the deployer does not read.
host=${DOCKER_HOST:-unix://$socket}

answers() {
    if have docker; then
        docker --host "$host" version --format '{{.Server.Version}}' >/dev/null 2>&1
    else
        [ "$host" = "unix://$socket" ] && [ -S "$socket" ] && have curl &&
            curl -fsS -m 5 --unix-socket "$socket" http://localhost/_ping >/dev/null 2>&1
    fi
}

# Prints the pid of the engine that `up` started, if it still runs. The name is compared, because the pid may have been
# reused.
ours() {
    local pid
    pid=$(cat "$state/pid" 2>/dev/null) || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] && echo "$pid"
}

# Waits for a response for at most 30 s, or until process $1 ends (0: a process that this script did not start).
wait_for_answer() {
    local tries=0
    until answers; do
        explain_refusal
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || return 1
        [ "$1" = 0 ] || [ -e "/proc/$1" ] || return 1
        sleep 0.2
    done
}

# Fails if starting an engine would not help.
explain_refusal() {
    [ "$host" = "unix://$socket" ] ||
        fail "no Docker Engine answers at DOCKER_HOST=$host" "start that engine, or unset DOCKER_HOST"
    if [ -S "$socket" ] && [ ! -w "$socket" ]; then
        fail "$socket is there, but this user may not use it" \
            "sudo usermod -aG docker $(id -un), log in again, then run make again"
    fi
}

up() {
    if answers; then
        say "Docker Engine: answers at $host"
        return
    fi
    explain_refusal

    local -a missing=()
    [ -x /usr/sbin/dockerd ] || have dockerd || missing+=(docker.io)
    [ -x /usr/sbin/iptables ] || have iptables || missing+=(iptables)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"

    if [ -d /run/systemd/system ]; then
        say "Docker Engine: starting the system's service (stop it with: systemctl stop docker)"
        as_root systemctl start docker
        wait_for_answer 0 || fail "the docker service does not answer" "see: journalctl -u docker"
    elif kill -0 "$(cat /var/run/docker.pid 2>/dev/null)" 2>/dev/null; then
        # Unless a policy forbids it, installing the package has started the engine.
        say "Docker Engine: waiting for the dockerd that is starting (pid $(cat /var/run/docker.pid))"
        wait_for_answer 0 || fail "the dockerd that runs does not answer" "end it, then run make again"
    else
        start
    fi
    say "Docker Engine: answers at $host"
}

start() {
    mkdir -p "$state"
    rm -f "$state/pid"
    # In a session of its own, so that neither the end of make nor Ctrl-C at its terminal ends the engine.
    # shellcheck disable=SC2016 # the inner shell's own variables
    as_root setsid --fork sh -c 'echo $$ >"$1/pid"; exec env PATH="$PATH:/usr/sbin:/sbin" dockerd >>"$1/dockerd.log" 2>&1 </dev/null' \
        sh "$PWD/$state"
    while [ ! -s "$state/pid" ]; do sleep 0.05; done
    say "Docker Engine: started dockerd (pid $(cat "$state/pid"), log $state/dockerd.log; stop it with: scripts/docker-engine.sh down)"
    if ! wait_for_answer "$(cat "$state/pid")"; then
        tail -n 5 "$state/dockerd.log" >&2
        fail "dockerd did not come up" "its last words are above, all of them in $state/dockerd.log"
    fi
}

down() {
    local pid
    if ! pid=$(ours); then
        say "Docker Engine: none of ours runs"
        return
    fi
    say "Docker Engine: stopping dockerd (pid $pid)"
    as_root kill "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.1; done
    rm -f "$state/pid"
}

status() {
    local pid
    if answers; then
        say "Docker Engine: answers at $host"
        if pid=$(ours); then say "Docker Engine: started by this script, pid $pid, log $state/dockerd.log"; fi
    else
        say "Docker Engine: none answers at $host"
        exit 1
    fi
}

case "${1:-}" in
    up) up ;;
    down) down ;;
    status) status ;;
    *) fail "unknown command '${1:-}'" "use: scripts/docker-engine.sh up|down|status" ;;
esac

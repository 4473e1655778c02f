#!/usr/bin/env bash
# Installs and starts the servers that the tests use: PostgreSQL's programs, Keycloak, busybox for the test image, a
# Docker Engine, the programs of a Kubernetes cluster. A failure is reported, the rest is tried all the same, and the
# script then ends with an error.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

have_postgres() {
    { have initdb && have postgres; } || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

# Debian's package would also start a server on the standard port. The tests start their own servers.
install_postgres() {
    local settings=/etc/postgresql-common/createcluster.conf
    install_packages postgresql-common
    as_root sed -i.before-renga "1i create_main_cluster = false" "$settings"
    local installed=0
    (install_packages postgresql) || installed=$?
    as_root mv "$settings.before-renga" "$settings"
    return "$installed"
}

missing=()
{ have setpriv && have flock; } || missing+=(util-linux)
have ip || missing+=(iproute2)
have_static_busybox || missing+=(busybox-static)

# Each in a subshell, because a failure exits the shell in which it happens.
failed=0
[ ${#missing[@]} = 0 ] || (install_packages "${missing[@]}") || failed=1
have_postgres || [ -n "${RENGA_TEST_POSTGRES:-}" ] || (install_postgres) || failed=1
scripts/keycloak.sh prepare || failed=1
scripts/docker-engine.sh up || failed=1
scripts/kubebox.sh prepare || failed=1
exit "$failed"

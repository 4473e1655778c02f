#!/usr/bin/env bash
# Provides a Keycloak for the tests: keycloak.sh prepare|serve
#
# `prepare` downloads the server once per machine, builds it and seeds the realm of tests/keycloak.
# .cache/keycloak is a link to the prepared folder:
#   server/   the built server, shared by any number of processes
#   home/     data of a server that has the realm; each process works on a copy
#   realm.json, prepare.log
# `serve HOME PORT` becomes a server at http://localhost:PORT/auth with its data in HOME. If HOME does not exist, it is
# made as a copy of home/. The administrator is admin, with the password admin.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

pom=tests/keycloak/pom.xml
realm=tests/keycloak/Renga-realm.json
link=.cache/keycloak

# Features that neither tests nor pages use. Without them the server starts faster and needs less memory.
unused=(
    account account-api admin-fine-grained-authz authorization ciba client-auth-federated client-policies dpop
    identity-brokering-api impersonation jwt-authorization-grant kerberos opentelemetry organization par passkeys
    passkeys-conditional-ui-authenticator persistent-user-sessions recovery-codes resource-indicators
    step-up-authentication-saml token-exchange-standard twitter-broker update-email user-event-metrics web-authn workflows
)
build_options=(--db=dev-file --http-relative-path=/auth --features-disabled="$(IFS=,; echo "${unused[*]}")")

java_is_recent() {
    have java && [ "$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')" -ge 17 ]
}

prepare() {
    java_is_recent || install_packages default-jre-headless
    java_is_recent || fail "Keycloak needs Java 17 or later" "install it, and see that java in PATH is that one"

    local version digest
    version=$(sed -n 's:.*<keycloak.version>\(.*\)</keycloak.version>.*:\1:p' "$pom")
    digest=$( (cat "$pom" "$realm" && echo "${build_options[@]}") | sha256sum | cut -c 1-12)
    prepare_once Keycloak "keycloak-$version-$digest" "$link" needs make
}

needs() {
    have mvn || install_packages maven
    have curl || install_packages curl ca-certificates
}

# Downloads the server, builds it and seeds the realm.
make() {
    local new=$1 port server
    mvn -B -ntp -q -f "$pom" -Dinto="$new/download" generate-resources
    mv "$new"/download/keycloak-* "$new/server"
    rm -r "$new/download"
    "$new/server/bin/kc.sh" build "${build_options[@]}"

    mkdir -p "$new/home/data/import"
    cp "$realm" "$new/home/data/import/"
    port=$(free_port)
    start "$new/server" "$new/home" "$port" --import-realm &
    server=$!
    # shellcheck disable=SC2064 # this server, whatever the variable says later
    trap "kill -KILL $server 2>/dev/null" EXIT
    until curl -fsS -m 5 -o /dev/null "http://127.0.0.1:$port/auth/realms/Renga/.well-known/openid-configuration" 2>/dev/null; do
        kill -0 "$server"
        sleep 0.2
    done
    kill "$server"
    # Java exits with 143 after SIGTERM.
    wait "$server" || [ $? = 143 ]
    trap - EXIT
    rm -rf "$new"/home/lib "$new"/home/data/{import,tmp,transaction-logs} "$new"/home/data/h2/*.trace.db
    cp "$realm" "$new/realm.json"
}

# Prints a port on which no program listens now.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# Becomes a server: start SERVER HOME PORT [OPTION…]. Like kc.sh, but without its shell as a parent process.
start() {
    local server=$1 home=$2 port=$3
    shift 3
    local -a open=()
    for package in java.util java.util.concurrent java.security java.lang; do
        open+=("--add-opens=java.base/$package=ALL-UNNAMED")
    done
    mkdir -p "$home/conf" "$home/providers" "$home/themes"
    # The server looks for its build in this folder.
    ln -sfn "$server/lib" "$home/lib"
    export KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=admin
    exec java -Xms64m -Xmx256m -XX:MaxMetaspaceSize=256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError \
        "${open[@]}" --enable-native-access=ALL-UNNAMED -Dfile.encoding=UTF-8 -Djava.net.preferIPv4Stack=true \
        -Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory \
        -Djava.util.logging.manager=org.jboss.logmanager.LogManager -Dpicocli.disable.closures=true \
        -Dkc.home.dir="$home" -Djboss.server.config.dir="$home/conf" \
        -cp "$server/lib/quarkus-run.jar" io.quarkus.bootstrap.runner.QuarkusEntryPoint \
        start --optimized --cache=local --http-enabled=true --http-host=127.0.0.1 --http-port="$port" \
        --hostname="http://localhost:$port/auth" "$@"
}

serve() {
    local home=$1 port=$2
    [ -e "$link/home" ] || fail "there is no Keycloak in $link" "run make servers"
    [ -e "$home" ] || cp -r "$link/home" "$home"
    start "$(readlink -f "$link/server")" "$(readlink -f "$home")" "$port"
}

case "${1:-} $#" in
    'prepare 1') prepare ;;
    'serve 3') serve "$2" "$3" ;;
    *) fail "unknown command '$*'" "use: scripts/keycloak.sh prepare, or scripts/keycloak.sh serve HOME PORT" ;;
esac

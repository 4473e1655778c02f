#!/usr/bin/env bash
# Writes the file system of an image of programs that were built here, as a tar, to standard output:
# program-image.sh PROGRAM…
#
# There is no registry to pull a base image from: beside the programs, in /usr/local/bin as in deploy/Dockerfile, it has the
# libraries that they load, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

[ $# -gt 0 ] || fail "no program is named" "use: scripts/program-image.sh PROGRAM…"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{etc,tmp,usr/local/bin}
for program in "$@"; do
    # Without what only debuggers read: a node keeps the image twice.
    strip --strip-debug -o "$root/usr/local/bin/$(basename "$program")" "$program"
    # Each line is `NAME => FILE (ADDRESS)`; the loader's is `FILE (ADDRESS)`.
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
    done
done
echo nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin >"$root/etc/passwd"
# Whatever the mask of this process: what runs as another user reads it, too.
chmod -R u=rwX,go=rX "$root"
chmod 1777 "$root/tmp"
tar -C "$root" --owner=0 --group=0 --numeric-owner --mtime=@0 --sort=name -cf - .

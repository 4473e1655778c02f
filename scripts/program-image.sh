#!/usr/bin/env bash
# Writes the file system of an image of locally built programs, as a tar, to standard output: program-image.sh PROGRAM…
#
# There is no registry to pull a base image from. The image has the programs, in /usr/local/bin as in deploy/Dockerfile,
# the libraries that they load, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

[ $# -gt 0 ] || fail "no program is named" "use: scripts/program-image.sh PROGRAM…"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{etc,tmp,usr/local/bin}
for program in "$@"; do
    # Without debug information, because a node keeps the image twice.
    strip --strip-debug -o "$root/usr/local/bin/$(basename "$program")" "$program"
    # Each line is `NAME => FILE (ADDRESS)`; the loader's is `FILE (ADDRESS)`.
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
    done
done
echo nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin >"$root/etc/passwd"
# Whatever the umask of this process, other users in the container must be able to read the files.
chmod -R u=rwX,go=rX "$root"
chmod 1777 "$root/tmp"
tar -C "$root" --owner=0 --group=0 --numeric-owner --mtime=@0 --sort=name -cf - .

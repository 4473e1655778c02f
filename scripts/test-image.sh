#!/usr/bin/env bash
# Writes the file system of the test image (renga-test/busybox:1) as a tar to standard output.
#
# There is no registry to pull from. The image is Debian's busybox-static, with a link in /bin for each of its programs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

have busybox || fail "busybox is not installed" "install busybox-static, or run make servers"
have_static_busybox || fail "$(command -v busybox) needs shared libraries" "install busybox-static instead"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root"/{bin,etc,tmp}
cp "$(command -v busybox)" "$root/bin/busybox"
for program in $(busybox --list); do
    [ "$program" = busybox ] || ln -s busybox "$root/bin/$program"
done
printf '%s\n' root:x:0:0:root:/:/bin/sh nobody:x:65534:65534:nobody:/:/bin/sh >"$root/etc/passwd"
# Whatever the umask of this process, other users in the container must be able to read the files.
chmod -R u=rwX,go=rX "$root"
chmod 1777 "$root/tmp"
tar -C "$root" --owner=0 --group=0 --numeric-owner --mtime=@0 --sort=name -cf - .

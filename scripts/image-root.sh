#!/bin/sh
# image-root.sh DIR PROGRAM...
#
# Fills DIR with everything that the image of these programs holds: the programs in /usr/local/bin, the shared libraries
# that they are linked to, the certificates of public authorities, and how names are looked up. Nothing else: no shell, no
# package manager. The Dockerfile and scripts/images.sh both call this, so both make the same image.
set -eu

[ $# -ge 2 ] || { echo "usage: $0 DIR PROGRAM..." >&2; exit 2; }
root=$1
shift

put() { # MODE FROM TO
    mkdir -p "$(dirname "$root/$3")"
    cp -L "$2" "$root/$3"
    chmod "$1" "$root/$3"
}

for program in "$@"; do
    put 0755 "$program" "usr/local/bin/$(basename "$program")"
    # Lines with a path: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" and the loader itself. A static program has none.
    { ldd "$program" 2>/dev/null || true; } | sed -n 's/^.*[[:space:]]\(\/[^ ]*\) (0x[0-9a-f]*)$/\1/p' | while read -r library; do
        put 0755 "$library" "${library#/}"
    done
done

certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
[ -r "$certificates" ] || { echo "error: $certificates is missing: install ca-certificates." >&2; exit 1; }
put 0644 "$certificates" etc/ssl/certs/ca-certificates.crt
# Without this glibc asks DNS for localhost before it looks into /etc/hosts. Both modules are part of libc itself.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
chmod 0644 "$root/etc/nsswitch.conf"
find "$root" -type d -exec chmod 0755 {} +

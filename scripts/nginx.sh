#!/bin/sh
# Prints the path of an nginx for the test of the proxy recipe: an installed one, else the one of Debian's package, unpacked into
# the cache on first use. Nothing is installed, so it needs no root and starts no server on port 80.
# NGINX=/path/to/nginx overrides both.
set -eu

if [ -n "${NGINX:-}" ]; then
    [ -x "$NGINX" ] || { echo "error: NGINX=$NGINX is not a program." >&2; exit 1; }
    echo "$NGINX"
    exit 0
fi

# Who is not root has no sbin on the PATH.
PATH=$PATH:/usr/sbin:/usr/local/sbin
command -v nginx && exit 0

cache=${TIDINGS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set TIDINGS_CACHE to a folder}/.cache}/tidings}
program=$cache/nginx-debian/usr/sbin/nginx
if [ -x "$program" ]; then
    echo "$program"
    exit 0
fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: no nginx found. Install one, or set NGINX=/path/to/nginx." >&2
    exit 1
fi
mkdir -p "$cache"
work=$(mktemp -d "$cache/.nginx.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"

echo "Fetching Debian's nginx, once." >&2
apt() { # COMMAND...: with lists and a cache of its own, as anybody
    (cd "$work" && apt-get -qq -o Dir::State::lists="$work/lists" -o Dir::Cache="$work" -o Dir::Cache::archives="$work/archives" \
        -o APT::Sandbox::User= "$@" </dev/null)
}
# Whatever becomes of the lists, what counts is whether there is a package afterwards.
if ! { apt update || true; apt download nginx; } >"$work/log" 2>&1; then
    cat "$work/log" >&2
    echo "error: apt-get could not fetch nginx. Install it, or set NGINX=/path/to/nginx." >&2
    exit 1
fi
dpkg-deb -x "$work"/nginx_*.deb "$work/root"
"$work/root/usr/sbin/nginx" -v || { echo "error: nginx does not start; install it with what it needs, or set NGINX=/path/to/nginx." >&2; exit 1; }
# Of several callers one is first; the others' is the same.
mv -T "$work/root" "$cache/nginx-debian" 2>/dev/null || [ -x "$program" ]
echo "$program"

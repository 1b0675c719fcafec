#!/bin/sh
# Prints the path of a program built from a Go module at one exact version; builds it on first use.
#
#   scripts/go-tool.sh NAME VERSION PACKAGE      e.g. go-tool.sh nats-server 2.15.2 github.com/nats-io/nats-server/v2
#
# Programs live in ${TIDINGS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidings}/NAME-VERSION/NAME. Several callers at once
# are fine: one builds, the others wait, and the finished program appears in one rename.
set -eu

[ $# -eq 3 ] || { echo "usage: $0 NAME VERSION PACKAGE" >&2; exit 2; }
name=$1 version=$2 package=$3

cache=${TIDINGS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set TIDINGS_CACHE to a folder}/.cache}/tidings}
program=$cache/$name-$version/$name

if [ -x "$program" ]; then
    echo "$program"
    exit 0
fi

if ! command -v go >/dev/null 2>&1; then
    echo "error: $name $version is not installed, and Go is needed to build it." >&2
    echo "       Install Go (https://go.dev/dl/), or install $name $version or newer yourself and put it on the PATH." >&2
    exit 1
fi

mkdir -p "$cache"
if command -v flock >/dev/null 2>&1; then
    # The lock goes with this process, however it ends. It saves work; the rename below is what makes it safe.
    exec 9>"$cache/.$name-$version.lock"
    flock 9
    if [ -x "$program" ]; then
        echo "$program"
        exit 0
    fi
fi

scratch=$(mktemp -d "$cache/.$name-$version.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "Building $name $version ($package), once." >&2
# Standard output belongs to the path alone. GOBIN and the lock's descriptor stay ours.
if ! CGO_ENABLED=0 GOBIN="$scratch" go install -trimpath "$package@v$version" >&2 9>&-; then
    echo "error: go install $package@v$version failed; the lines above say why." >&2
    exit 1
fi
built=$scratch/$name
[ -x "$built" ] || { echo "error: $package built no program called $name." >&2; exit 1; }

mkdir -p "$cache/$name-$version"
mv -f "$built" "$program"
echo "$program"

#!/bin/sh
# Prints the path of cargo-deny: an installed one of the pinned version or newer, else the pinned one, built on first use.
set -eu

version=0.20.2

installed=$(command -v cargo-deny || true)
if [ -n "$installed" ]; then
    found=$("$installed" --version 2>/dev/null | sed -n 's/^cargo-deny \([0-9][0-9.]*\)$/\1/p')
    if [ -n "$found" ] && [ "$(printf '%s\n' "$version" "$found" | sort -V | head -n 1)" = "$version" ]; then
        echo "$installed"
        exit 0
    fi
fi

cache=${TIDINGS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set TIDINGS_CACHE to a folder}/.cache}/tidings}
folder=$cache/cargo-deny-$version
program=$folder/bin/cargo-deny

if [ ! -x "$program" ]; then
    echo "Building cargo-deny $version, once. It is a large program: some minutes on two cores." >&2
    # cargo install renames into place and takes a lock on the folder. A debug build runs in the blink of an eye as
    # well, and takes a fraction of the time to build.
    mkdir -p "$folder"
    nice cargo install cargo-deny --version "=$version" --locked --debug --quiet \
        --root "$folder" --target-dir "$folder/target" >&2
    rm -rf "$folder/target"
fi
echo "$program"

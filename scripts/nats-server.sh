#!/bin/sh
# Prints the path of a nats-server that is new enough: the installed one, else the pinned one, built on first use.
set -eu

# Every line of the NATS contract was checked against this version.
version=2.15.2

installed=$(command -v nats-server || true)
if [ -n "$installed" ]; then
    # "nats-server: v2.15.2"; a release candidate (v2.16.0-RC.1) does not count.
    found=$("$installed" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9][0-9.]*\)$/\1/p')
    if [ -n "$found" ] && [ "$(printf '%s\n' "$version" "$found" | sort -V | head -n 1)" = "$version" ]; then
        echo "$installed"
        exit 0
    fi
    echo "note: $installed is older than $version (or its version is not known); using $version." >&2
fi

exec "$(dirname "$0")/go-tool.sh" nats-server "$version" github.com/nats-io/nats-server/v2

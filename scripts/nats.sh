#!/bin/sh
# Prints the path of the `nats` command-line client: the installed one, else a pinned one, built on first use.
set -eu

version=0.5.1

installed=$(command -v nats || true)
if [ -n "$installed" ]; then
    echo "$installed"
    exit 0
fi

exec "$(dirname "$0")/go-tool.sh" nats "$version" github.com/nats-io/natscli/nats

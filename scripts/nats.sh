#!/bin/sh
# Runs the `nats` command-line client: the installed one, else a pinned one, built on first use.
#
#   scripts/nats.sh --server nats://127.0.0.1:4222 stream ls
set -eu

version=0.5.1

nats=$(command -v nats || true)
[ -n "$nats" ] || nats=$("$(dirname "$0")/go-tool.sh" nats "$version" github.com/nats-io/natscli/nats)
exec "$nats" "$@"

#!/bin/sh
# Measures the release build beside the floor of the machine and nchan. `make bench` calls this; see docs/performance.md.
#
#   scripts/bench.sh [ARGUMENTS OF tidings-bench]
set -eu
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
# What is measured in release, what only has to be there as the tests have it.
cargo build --release -p tidings-gateway -p tidings-bench
[ -x "$target/debug/tidings-operator" ] || cargo build --workspace --bins
exec "$target/release/tidings-bench" "$@"

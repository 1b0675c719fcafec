#!/bin/sh
# Installs the chart on a real cluster on this machine and uses it, in a browser too. `make e2e` calls this. Needs root.
#
#   scripts/e2e.sh [TEST]       (default: all of tests/tests/e2e.rs, and the cluster's own of nodes.rs)
#
#   PROGRAMS    a directory with the programs for the images    (default: a release build)
set -eu
cd "$(dirname "$0")/.."

[ "$(id -u)" -eq 0 ] || { echo "error: a cluster with nodes needs root: sudo make e2e" >&2; exit 1; }
scripts/node-packages.sh
scripts/chromium.sh >/dev/null
npm --prefix tests/browser ci --no-audit --no-fund --silent
target=${CARGO_TARGET_DIR:-target}
if [ -z "${PROGRAMS:-}" ]; then
    scripts/images.sh
    PROGRAMS=$target/for-images/release
fi
PROGRAMS=$(cd "$PROGRAMS" && pwd)
export PROGRAMS
# One cluster at a time.
exec cargo test --workspace --no-fail-fast --test e2e --test nodes -- --ignored --test-threads=1 "$@"

#!/bin/sh
# A Kubernetes cluster with real nodes on this machine, with the images imported, for hand work. `make cluster` calls this;
# Ctrl-C ends the cluster and leaves nothing behind. Needs root.
#
#   NODES      how many nodes                                    (default 1)
#   PROGRAMS   a directory with built programs for the images    (default: a release build; target/debug is quicker to have)
set -eu
cd "$(dirname "$0")/.."

[ "$(id -u)" -eq 0 ] || { echo "error: a cluster with nodes needs root: sudo make cluster" >&2; exit 1; }
scripts/node-packages.sh
cargo build --workspace --bins --quiet
target=${CARGO_TARGET_DIR:-target}
if [ -z "${PROGRAMS:-}" ]; then
    scripts/images.sh >/dev/null
    PROGRAMS=$target/for-images/release
fi
export PROGRAMS
# The chart's, and those that only tests run: make e2e KUBECONFIG=… works against this cluster too.
archives=$("$target/debug/e2e-images" | cut -d ' ' -f 2)
echo "Starting ${NODES:-1} node(s). When they are ready, in another terminal (after the two exports below):" >&2
echo "  helm install tidings charts/tidings --namespace tidings-system --create-namespace" >&2
# shellcheck disable=SC2086 # A list of files.
exec "$target/debug/test-cluster" "${NODES:-1}" $archives

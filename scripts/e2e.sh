#!/bin/sh
# Installs the chart on a real cluster and uses it, in a browser too. `make e2e` calls this.
#
#   scripts/e2e.sh [--kubeconfig FILE] [TEST]    (default: all of tests/tests/e2e, and the cluster's own of nodes.rs)
#
# Without a kubeconfig it starts a cluster on this machine, as root, and takes it down again.
#
#   PROGRAMS    a directory with the programs for the images    (default: a release build)
#
# With one, the cluster of its current context is used. It has to have no Channels yet, and to reach the images below; tests
# that kill nodes are left out. Pods that tests start and the namespaces they make are removed again.
#
#   IMAGES         registry and folder of tidings, nats-server, nats and visitor; target/debug/e2e-images packs all four
#                                                                                          (default ghcr.io/tidings-dev)
#   VERSION        the tag of tidings and visitor                          (default: the version in Cargo.toml)
#   NEXT_VERSION   the tag of tidings that upgrades go to                  (default: VERSION; then only the chart changes)
set -eu
cd "$(dirname "$0")/.."

suites="--test e2e --test nodes"
if [ "${1:-}" = --kubeconfig ]; then
    [ $# -ge 2 ] || { echo "usage: $0 [--kubeconfig FILE] [TEST]" >&2; exit 2; }
    KUBECONFIG=$2
    export KUBECONFIG
    shift 2
    command -v kubectl >/dev/null 2>&1 || { echo "error: kubectl is needed for a cluster of one's own." >&2; exit 1; }
    TIDINGS_TEST_CLUSTER=$(kubectl config current-context) || exit 1
    export TIDINGS_TEST_CLUSTER
    echo "The cluster is that of the context $TIDINGS_TEST_CLUSTER; tests of nodes are left out." >&2
    suites="--test e2e"
else
    unset TIDINGS_TEST_CLUSTER
    [ "$(uname)" = Linux ] && [ "$(id -u)" -eq 0 ] || {
        echo "error: a cluster with nodes needs root on Linux: sudo make e2e, or make e2e KUBECONFIG=FILE" >&2
        exit 1
    }
    scripts/node-packages.sh
    target=${CARGO_TARGET_DIR:-target}
    if [ -z "${PROGRAMS:-}" ]; then
        scripts/images.sh
        PROGRAMS=$target/for-images/release
    fi
    PROGRAMS=$(cd "$PROGRAMS" && pwd)
    export PROGRAMS
fi
scripts/browser.sh chromium >/dev/null
npm --prefix tests/browser ci --no-audit --no-fund --silent
# The pods' own visitor among them.
cargo build --workspace --bins --quiet
# One cluster at a time.
# shellcheck disable=SC2086 # A list of flags.
exec cargo test --workspace --no-fail-fast $suites -- --ignored --test-threads=1 "$@"

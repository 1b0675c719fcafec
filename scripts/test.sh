#!/bin/sh
# Runs all tests of all runners; ends with one line, "N passed, N failed", that counts them all. `make test` calls this.
#
#   scripts/test.sh [rust] [browser] [cluster]      only these suites; without any: all
set -eu
cd "$(dirname "$0")/.."

logs=${CARGO_TARGET_DIR:-target}/test-logs
rm -rf "$logs"
mkdir -p "$logs"
# What the tests' processes say, and the tokens that were made: searched at the end.
TIDINGS_EVIDENCE=$(cd "$logs" && pwd)/evidence
export TIDINGS_EVIDENCE

# Runs one suite to its end, shows what it prints, and goes on whatever comes of it.
suite() { # NAME COMMAND...
    name=$1
    shift
    echo "=== $name: $*"
    { code=0; "$@" </dev/null 2>&1 || code=$?; echo "$code" >"$logs/$name.code"; } | tee "$logs/$name.log"
}

rust() {
    suite build cargo build --workspace --bins
    [ "$(cat "$logs/build.code")" -eq 0 ] || return 0
    # The suites ask for these themselves; here neither a build nor a download eats into a test's deadline.
    suite nats-server scripts/nats-server.sh
    suite nginx scripts/nginx.sh
    suite rust cargo test --workspace --no-fail-fast
}

browser() {
    [ -x "${CARGO_TARGET_DIR:-target}/debug/tidings-gateway" ] || suite build cargo build --workspace --bins
    suite chromium scripts/browser.sh chromium
    suite firefox scripts/browser.sh firefox
    suite npm npm --prefix tests/browser ci --no-audit --no-fund
    suite browser npm --prefix tests/browser test
    # Those that need nothing but Node; `make clients` runs all.
    suite clients scripts/clients.sh node
    suite client-package scripts/client.sh
}

# The chart on real nodes, with images of the programs that are built already. Needs root; see docs/testing.md. Its tests are
# those that cargo test counts as ignored.
left_out=
cluster() {
    if [ "$(uname)" != Linux ] || [ "$(id -u)" -ne 0 ]; then
        left_out="the cluster suite was left out: nodes need Linux and root"
        echo "=== cluster: $left_out"
        return 0
    fi
    [ -x "${CARGO_TARGET_DIR:-target}/debug/tidings-gateway" ] || suite build cargo build --workspace --bins
    suite cluster env PROGRAMS="${CARGO_TARGET_DIR:-target}/debug" scripts/e2e.sh
}

[ $# -gt 0 ] || set -- rust browser cluster
for runner in "$@"; do
    case $runner in
        rust | browser | cluster) "$runner" ;;
        *) echo "usage: $0 [rust] [browser] [cluster]" >&2; exit 2 ;;
    esac
done
# Whatever has run has left its evidence; what did not compile has not.
if [ -d "$TIDINGS_EVIDENCE" ]; then
    suite tokens "${CARGO_TARGET_DIR:-target}/debug/token-search" "$TIDINGS_EVIDENCE"
    [ "$(cat "$logs/tokens.code")" -ne 0 ] || rm -rf "$TIDINGS_EVIDENCE"
fi

# "test result: ok. 12 passed; 0 failed; …", "test a::b ... ignored, why" (cargo) and "# pass 3" (node's test runner). A suite
# that ended with an error of its own, say because it did not compile, counts as one failure: what did not run has not passed.
# An ignored test that another test starts is no skipped one, nor is one that the cluster suite has run.
ran_elsewhere=' ignored, .*starts it$'
[ ! -f "$logs/cluster.code" ] || ran_elsewhere="$ran_elsewhere| ignored, part of make e2e"
passed=0 failed=0 skipped=0
for code in "$logs"/*.code; do
    log=${code%.code}.log
    counts=$(awk -v ran_elsewhere="$ran_elsewhere" '
        /^test result: / { for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i-1); if ($i == "failed;") f += $(i-1) } }
        /^test .* \.\.\. ignored/ && $0 !~ ran_elsewhere { s += 1 }
        /^(#|ℹ) (pass|fail|cancelled|skipped|todo) [0-9]+$/ { if ($2 == "pass") p += $3; else if ($2 == "fail" || $2 == "cancelled") f += $3; else s += $3 }
        END { print p + 0, f + 0, s + 0 }' "$log")
    # shellcheck disable=SC2086 # Three numbers.
    set -- $counts
    if [ "$(cat "$code")" -ne 0 ] && [ "$2" -eq 0 ]; then
        echo "error: $(basename "$log" .log) ended with exit code $(cat "$code"); see $log" >&2
        set -- "$1" 1 "$3"
    fi
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
done

# What failed, once more at the end: the beginning of what each said.
for log in "$logs"/*.log; do
    awk '/^---- .* stdout ----$/ { lines = 12 } lines > 0 && NF { print substr($0, 1, 400); lines -= 1 }' "$log"
done

[ -z "$left_out" ] || echo "$left_out"
summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary="$summary, $skipped skipped"
echo "$summary" | tee "$logs/summary"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

#!/bin/sh
# Writes the files that are generated from the code. With --check it writes nothing and fails if one is stale.
set -eu
cd "$(dirname "$0")/.."

case ${1-} in
    '') check= ;;
    --check) check=yes ;;
    *) echo "usage: $0 [--check]" >&2; exit 2 ;;
esac

cargo build --workspace --bins --quiet
programs=${CARGO_TARGET_DIR:-target}/debug

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stale=

generated() { # FILE COMMAND...
    file=$1
    shift
    "$@" >"$scratch/new"
    cmp -s "$scratch/new" "$file" && return 0
    if [ -n "$check" ]; then
        echo "error: $file is stale; run make generate." >&2
        diff -u "$file" "$scratch/new" | head -n 40 >&2 || true
        stale=yes
    else
        mkdir -p "$(dirname "$file")"
        cp "$scratch/new" "$file"
        echo "wrote $file"
    fi
}

generated charts/tidings/crds/channels.tidings.dev.yaml "$programs/crdgen"
generated docs/reference/channel.md "$programs/crdgen" docs
generated charts/tidings/README.md scripts/chart-readme.sh

[ -z "$stale" ]

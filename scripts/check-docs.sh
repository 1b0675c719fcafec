#!/bin/sh
# Fails if a relative link in the docs leads nowhere, or if an example is not a valid Channel.
set -eu
cd "$(dirname "$0")/.."

broken=$(
    git ls-files '*.md' | while read -r file; do
        grep -oE '\]\([^)# ]+' "$file" | sed 's/^](//' | while read -r link; do
            case $link in
                *://* | mailto:*) ;;
                *) [ -e "$(dirname "$file")/$link" ] || echo "error: $file: no such file: $link" ;;
            esac
        done
    done
)
if [ -n "$broken" ]; then
    echo "$broken" >&2
    exit 1
fi

"${CARGO_TARGET_DIR:-target}/debug/tidings-operator" check docs/examples/*.yaml

#!/bin/sh
# Fails if a relative link in the docs leads nowhere, if a test that they name does not exist, or if an example is not a valid
# Channel. A test is named as a link from its name in backquotes to its file: [`name_of_test`](../tests/tests/file.rs).
set -eu
cd "$(dirname "$0")/.."

broken=$(
    git ls-files --cached --others --exclude-standard '*.md' | while read -r file; do
        grep -oE '\]\([^)# ]+' "$file" | sed 's/^](//' | while read -r link; do
            case $link in
                *://* | mailto:*) ;;
                *) [ -e "$(dirname "$file")/$link" ] || echo "error: $file: no such file: $link" ;;
            esac
        done
        grep -oE '\[`[a-z0-9_:]+`\]\([^)# ]+\.rs\)' "$file" | tr -d '[]`)' | tr '(' ' ' | sort -u | while read -r test link; do
            grep -qsE "fn ${test##*:}\b" "$(dirname "$file")/$link" && continue
            found=$(git grep -lE "fn ${test##*:}\b" -- '*.rs' | head -n 3 | tr '\n' ' ')
            echo "error: $file: no test $test in $link${found:+; it is in $found}"
        done
    done
)
if [ -n "$broken" ]; then
    echo "$broken" >&2
    exit 1
fi

"${CARGO_TARGET_DIR:-target}/debug/tidings-operator" check docs/examples/*.yaml

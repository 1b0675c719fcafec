#!/bin/sh
# Runs the clients that people use, in pinned versions, against the programs in target/debug: `make clients` calls this.
#
#   scripts/clients.sh [node] [python] [go]      only these; without any: all
set -eu
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- node python go
cache=${TIDINGS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set TIDINGS_CACHE to a folder}/.cache}/tidings}
mkdir -p "$cache"
CLIENTS=
for family in "$@"; do
    CLIENTS=${CLIENTS:+$CLIENTS,}$family
    case $family in
        node)
            npm --prefix tests/clients/node ci --no-audit --no-fund >&2
            ;;
        python)
            command -v python3 >/dev/null 2>&1 || { echo "error: Python 3 is needed for its clients." >&2; exit 1; }
            pins=tests/clients/python/requirements.txt
            venv=$cache/clients-python-$(cksum <$pins | cut -d' ' -f1)
            if [ ! -e "$venv/complete" ]; then
                python3 -m venv --clear "$venv" >&2
                "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r $pins >&2
                touch "$venv/complete"
            fi
            PYTHON=$venv/bin/python
            export PYTHON
            ;;
        go)
            command -v go >/dev/null 2>&1 || { echo "error: Go is needed for its clients." >&2; exit 1; }
            GO_CLIENTS=$cache/clients-go
            (cd tests/clients/go && go build -o "$GO_CLIENTS" .) >&2
            export GO_CLIENTS
            ;;
        *) echo "usage: $0 [node] [python] [go]" >&2; exit 2 ;;
    esac
done
export CLIENTS
exec node --test --test-reporter=spec tests/clients/suite.test.js
